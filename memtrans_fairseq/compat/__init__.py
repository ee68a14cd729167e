"""What fairseq 0.12.2 needs to run on Python >= 3.11, torch >= 2.6 and numpy >= 2. Foreign code is patched here only.

One small function per incompatibility. Each says the symptom, since when, the upstream issue where one is known, and
the scope. `import memtrans_fairseq` calls `apply`; `quiet` and `no_cudnn_attention` are for the launcher (cli.py).
"""

import importlib
import importlib.metadata

from .checkpoints import (
    UnsafeCheckpoint,
    checkpoint_types,
    counts_go_on,
    full_disks_are_named,
    mixed_precision_comes_back,
    safe_checkpoints,
    task_state_comes_back,
    whole_checkpoint_copies,
)
from .imports import (
    hashable_dataclasses,
    no_tensorboardx_notice,
    numpy_names,
    own_hydra_version,
    wandb_waits_to_be_asked,
)
from .launcher import no_cudnn_attention, quiet
from .ranks import (
    broadcast_between_own_ranks,
    cured_children,
    gradients_are_summed_in_one_piece,
    numbers_of_the_cpu_are_summed_there,
)
from .training import (
    amp_scales_as_its_optimizer,
    amp_unscales_once,
    amp_waits_for_no_number,
    batches_end_with_their_command,
    bf16_without_tpu,
    no_encoder_fast_path,
    no_numbers_that_nobody_reads,
    optimizers_leave_the_compiler_alone,
    wandb_begins_once,
)

__all__ = [
    "FAIRSEQ",
    "UnsafeCheckpoint",
    "apply",
    "checkpoint_types",
    "hashable_dataclasses",
    "no_cudnn_attention",
    "quiet",
]

FAIRSEQ = "0.12.2"


def apply() -> None:
    """Import fairseq and cure it. A second call changes nothing. Raises ImportError, with the remedy, without it."""
    check_fairseq()
    with hashable_dataclasses(), no_tensorboardx_notice(), wandb_waits_to_be_asked():
        importlib.import_module("fairseq")
    for cure in (
        numpy_names,
        safe_checkpoints,
        broadcast_between_own_ranks,
        cured_children,
        gradients_are_summed_in_one_piece,
        numbers_of_the_cpu_are_summed_there,
        no_encoder_fast_path,
        bf16_without_tpu,
        amp_unscales_once,
        amp_scales_as_its_optimizer,
        amp_waits_for_no_number,
        no_numbers_that_nobody_reads,
        optimizers_leave_the_compiler_alone,
        whole_checkpoint_copies,
        full_disks_are_named,
        own_hydra_version,
        counts_go_on,
        task_state_comes_back,
        mixed_precision_comes_back,
        wandb_begins_once,
        batches_end_with_their_command,
    ):
        cure()


def check_fairseq() -> None:
    """Refuse a missing or a different fairseq: the cures are written against one version."""
    remedy = f"run: pip install --no-deps fairseq=={FAIRSEQ}"
    try:
        found = importlib.metadata.version("fairseq")
    except importlib.metadata.PackageNotFoundError:
        raise ImportError(f"fairseq is not installed; {remedy}") from None
    if found != FAIRSEQ:
        raise ImportError(f"fairseq {found} is installed, but memtrans_fairseq needs {FAIRSEQ}; {remedy}")
