"""What fairseq 0.12.2 needs to run on Python >= 3.11, torch >= 2.6 and numpy >= 2. Foreign code is patched here only.

One small function per incompatibility. Each says the symptom, since when, the upstream issue where one is known, and
the scope. `import memtrans_fairseq` calls `apply`; `quiet` and `no_cudnn_attention` are for the launcher (cli.py).
"""

import dataclasses
import functools
import importlib
import importlib.metadata
import logging
import multiprocessing
import os
import pickle
import re
import shutil
import types
import warnings
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

FAIRSEQ = "0.12.2"


class UnsafeCheckpoint(ValueError):
    """A checkpoint file that holds more than data. The message is one line."""


def apply() -> None:
    """Import fairseq and cure it. A second call changes nothing. Raises ImportError, with the remedy, without it."""
    check_fairseq()
    with hashable_dataclasses(), no_tensorboardx_notice():
        importlib.import_module("fairseq")
    for cure in (
        numpy_names,
        safe_checkpoints,
        broadcast_between_own_ranks,
        cured_children,
        no_encoder_fast_path,
        bf16_without_tpu,
        amp_unscales_once,
        whole_checkpoint_copies,
        own_hydra_version,
        counts_go_on,
        task_state_comes_back,
        wandb_begins_once,
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


@contextmanager
def hashable_dataclasses() -> Iterator[None]:
    """Symptom: `import fairseq` fails, "mutable default <class '...CommonConfig'> for field common is not allowed".

    Since Python 3.11, which refuses a default whose class has no `__hash__` (upstream issues 5012, 5634).
    Scope: dataclasses of fairseq's own modules, while this context is open, are hashed by identity. The defaults stay
    instances (no `default_factory`), because fairseq's `hydra_init` reads `field.default`.
    """
    original = dataclasses.dataclass

    @functools.wraps(original)
    def dataclass(cls: type | None = None, /, **options: Any) -> Any:
        def decorate(cls: type) -> type:
            made: Any = original(cls, **options)
            if made.__hash__ is None and made.__module__.startswith("fairseq."):
                made.__hash__ = object.__hash__
            return made

        return decorate if cls is None else decorate(cls)

    dataclasses.dataclass = dataclass  # type: ignore[assignment]
    try:
        yield
    finally:
        dataclasses.dataclass = original


@contextmanager
def no_tensorboardx_notice() -> Iterator[None]:
    """Symptom: every start logs "Please install tensorboardX", although fairseq prefers torch's own TensorBoard writer.

    Scope: the logger of fairseq's text-to-speech task, while this context is open.
    """
    logger = logging.getLogger("fairseq.tasks.text_to_speech")
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(logging.NOTSET)


@functools.cache
def numpy_names() -> None:
    """Symptom: "module 'numpy' has no attribute ...": `compat` (language models), `int` (span masking), `float` (CRF).

    Since numpy 1.24, `compat` since 2.0. Scope: the four modules of fairseq that use these names see a copy of numpy's
    namespace with them.
    """
    import numpy

    old_names = {"int": int, "float": float, "compat": types.SimpleNamespace(long=int)}
    namespace = types.ModuleType("numpy")
    vars(namespace).update(vars(numpy) | old_names)
    users = ("data.data_utils", "data.language_pair_dataset", "data.token_block_dataset", "modules.dynamic_crf_layer")
    for user in users:
        importlib.import_module(f"fairseq.{user}").np = namespace  # type: ignore[attr-defined]


@functools.cache
def checkpoint_types() -> tuple[Any, ...]:
    """The types in fairseq's checkpoints besides tensors and plain containers, which torch allows by itself.

    `Namespace`: the model options of an `--arch` without a dataclass (`cfg`), and all options of old checkpoints
    (`args`). numpy: counts and scores that a task logs, as with `--eval-bleu`; numpy 1 named their module differently.
    Meters: up to fairseq 0.9 they were stored as objects.
    """
    import numpy
    from fairseq.logging import meters

    arrays = (numpy._core.multiarray._reconstruct, numpy._core.multiarray.scalar)  # type: ignore[attr-defined]
    old_arrays = [(function, f"numpy.core.multiarray.{function.__name__}") for function in arrays]
    dtypes = (type(numpy.dtype(kind)) for kind in (bool, "int32", "int64", "float32", "float64"))
    old_meters = [
        (meter, f"fairseq.meters.{meter.__name__}")
        for meter in (meters.AverageMeter, meters.TimeMeter, meters.StopwatchMeter)
    ]
    return Namespace, *arrays, *old_arrays, numpy.ndarray, numpy.dtype, *dtypes, *old_meters


@functools.cache
def safe_checkpoints() -> None:
    """Symptom: "Weights only load failed" for any checkpoint of fairseq.

    Since torch 2.6, which loads tensors and plain data only. Scope: fairseq's two checkpoint loaders allow, while they
    run, the types above and nothing else: a file that would run code is refused with `UnsafeCheckpoint`.
    """
    import torch
    from fairseq import checkpoint_utils

    def safe(load: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(load)
        def loaded(path: str, *args: Any, **kwargs: Any) -> Any:
            try:
                with torch.serialization.safe_globals(list(checkpoint_types())):
                    return load(path, *args, **kwargs)
            except pickle.UnpicklingError as error:
                raise UnsafeCheckpoint(_refusal(path, str(error))) from None

        return loaded

    checkpoint_utils.load_checkpoint_to_cpu = safe(checkpoint_utils.load_checkpoint_to_cpu)
    checkpoint_utils.load_ema_from_checkpoint = safe(checkpoint_utils.load_ema_from_checkpoint)


def _refusal(path: str, reason: str) -> str:
    found = re.search(r"unsupported (?:global: )?GLOBAL (\S+)", reason, re.IGNORECASE)
    what = f"it holds {found[1]}, which could run code" if found else "it is damaged, or holds more than data"
    return f"checkpoint {path} is refused: {what}; use a checkpoint that fairseq itself has written"


@functools.cache
def broadcast_between_own_ranks() -> None:
    """Symptom: `broadcast_object` fails on every rank but the first, "Weights only load failed".

    Since torch 2.6. Scope: fairseq's broadcast. It reads no file, only what another rank of the same job has sent, so
    torch's own broadcast of any object does the same.
    """
    import torch.distributed
    from fairseq.distributed import utils

    @functools.wraps(utils._broadcast_object_slow)
    def broadcast(obj: Any, src_rank: int, group: Any, dist_device: torch.device) -> Any:
        holder = [obj]
        torch.distributed.broadcast_object_list(holder, src=src_rank, group=group, device=dist_device)
        return holder[0]

    utils._broadcast_object_slow = broadcast


@functools.cache
def cured_children() -> None:
    """Symptom: with several GPUs, each spawned rank imports fairseq anew, uncured.

    On Python >= 3.11, as above. Scope: the function that fairseq hands to `torch.multiprocessing.spawn` is one of this
    module, so a rank imports the plugin before anything of fairseq is unpickled.
    """
    from fairseq.distributed import utils

    utils.fairseq_distributed_main = utils.distributed_main
    utils.distributed_main = distributed_main


def distributed_main(rank: int, main: Callable[..., None], cfg: Any, kwargs: dict[str, Any]) -> None:
    """fairseq's function of this name, which is one rank's whole work, with the launcher's settings.

    A spawned process spawns its own data-loading workers too, and these would be uncured. They are forked, as in
    training with one GPU and under torchrun.
    """
    from fairseq.distributed import utils

    multiprocessing.set_start_method("fork", force=True)
    no_cudnn_attention()
    with quiet():
        utils.fairseq_distributed_main(rank, main, cfg, kwargs)


@functools.cache
def no_encoder_fast_path() -> None:
    """Symptom: generation fails in `torch._transformer_encoder_layer_fwd`, "Mask Type should be defined".

    Since torch 2.1; also, layers in eval mode get nested, batch-first tensors. Scope: fairseq's transformer encoder
    layers never take that path. The zero parameters that only it reads (`in_proj_weight` ... `fc2_bias`) stay in the
    state dict, whose keys are stock fairseq's, but need no gradient: neither counted as trained nor optimised.
    """
    from fairseq.modules.transformer_layer import TransformerEncoderLayerBase

    original = TransformerEncoderLayerBase.__init__

    @functools.wraps(original)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        self.can_use_fastpath = False
        for kind in ("in_proj", "out_proj", "fc1", "fc2"):
            getattr(self, f"{kind}_weight").requires_grad_(False)
            getattr(self, f"{kind}_bias").requires_grad_(False)

    TransformerEncoderLayerBase.__init__ = init


@functools.cache
def bf16_without_tpu() -> None:
    """Symptom: `--bf16` fails, "'NoneType' object has no attribute 'xla_device'", because it switches `--tpu` on.

    Since fairseq 0.10 (upstream issue 4696). Scope: fairseq's parsed options, where torch_xla is not installed.
    """
    from fairseq import options, utils

    original = options.parse_args_and_arch

    @functools.wraps(original)
    def parse_args_and_arch(*args: Any, **kwargs: Any) -> Any:
        parsed = original(*args, **kwargs)
        namespace = parsed[0] if isinstance(parsed, tuple) else parsed
        if getattr(namespace, "bf16", False):
            namespace.tpu = False
        return parsed

    if utils.xm is None:
        options.parse_args_and_arch = parse_args_and_arch


@functools.cache
def amp_unscales_once() -> None:
    """Symptom: with `--amp` the gradients are divided by the loss scale twice, so they sink towards Adam's epsilon.

    In fairseq 0.12.2 with any torch: gradients are unscaled for the inner optimiser before clipping, but the step is
    made with its wrapper, which the gradient scaler takes for another optimiser. Scope: fairseq's AMP optimiser.
    """
    from fairseq.optim.amp_optimizer import AMPOptimizer

    @functools.wraps(AMPOptimizer.step)
    def step(self: Any) -> None:
        self.scaler.step(self.optimizer)
        self.scaler.update()

    AMPOptimizer.step = step


@functools.cache
def whole_checkpoint_copies() -> None:
    """Symptom: a process killed while it saves leaves half a `checkpoint_last.pt`, from which nothing can resume.

    In fairseq 0.12.2: the first file of a save appears by renaming, but `checkpoint_best.pt` and `checkpoint_last.pt`
    are then copied over the old ones. Scope: these copies. They become hard links (or copies, where the file system has
    none), also put in place by renaming: whole at any moment, and at no cost in disk or time.
    """
    from fairseq import checkpoint_utils

    class WholeCopies(checkpoint_utils.PathManager):
        @staticmethod
        def copy(src_path: str, dst_path: str, overwrite: bool = False) -> bool:
            temporary = f"{dst_path}.link"  # fairseq writes new checkpoints to ".tmp" names
            if os.path.lexists(temporary):
                os.remove(temporary)
            try:
                os.link(src_path, temporary)
            except OSError:
                shutil.copyfile(src_path, temporary)
            os.replace(temporary, dst_path)
            return True

    checkpoint_utils.PathManager = WholeCopies


@functools.cache
def own_hydra_version() -> None:
    """Symptom: fairseq's options fail, "hydra.experimental.initialize() is no longer experimental".

    In a process that has composed a config with Hydra's `version_base` at 1.2 or later, which Hydra keeps globally.
    Scope: fairseq's conversion of its options asks for version 1.1, under which it was written.
    """
    import hydra
    from fairseq.dataclass import utils

    utils.initialize = functools.partial(hydra.initialize, version_base="1.1")
    utils.compose = hydra.compose


@functools.cache
def counts_go_on() -> None:
    """Symptom: the checkpoints of a continued training count only some of its updates, tokens and seconds.

    In fairseq 0.12.2: the meters of the whole training are not loaded from a checkpoint made at the end of an epoch;
    from others they are, but into a new object, while what is logged still goes to the old one. Scope: the meters
    named "default", which see all that is logged, when a trainer loads a checkpoint.
    """
    from fairseq.logging import meters, metrics
    from fairseq.trainer import Trainer

    original = Trainer.load_checkpoint

    @functools.wraps(original)
    def load_checkpoint(self: Any, *args: Any, reset_meters: bool = False, **kwargs: Any) -> Any:
        extra_state = original(self, *args, reset_meters=reset_meters, **kwargs)
        if extra_state and "metrics" in extra_state and not reset_meters:
            whole = metrics._active_aggregators["default"]
            whole.load_state_dict(extra_state["metrics"]["default"])
            for meter in whole.values():
                if isinstance(meter, meters.TimeMeter):  # rates since the start of this process
                    meter.reset()
            metrics._aggregators["default"] = whole
        return extra_state

    Trainer.load_checkpoint = load_checkpoint


@functools.cache
def task_state_comes_back() -> None:
    """Symptom: what a task keeps for a continued training is saved with every checkpoint, but never given back to it.

    In fairseq 0.12.2, whose trainer writes "task_state" and reads it nowhere. Scope: trainers put the task's state into
    their own `extra_state` too, which every rank gets when a checkpoint is loaded, and hand it on to the task.
    """
    from fairseq import utils
    from fairseq.trainer import Trainer

    original_state_dict, original_load = Trainer.state_dict, Trainer.load_checkpoint

    @functools.wraps(original_state_dict)
    def state_dict(self: Any) -> dict[str, Any]:
        state = original_state_dict(self)
        # on the CPU already here, so that both names are of the same tensors, which are written once
        state["task_state"] = state["extra_state"]["task_state"] = utils.move_to_cpu(state["task_state"])
        return state

    @functools.wraps(original_load)
    def load_checkpoint(self: Any, *args: Any, **kwargs: Any) -> Any:
        extra_state = original_load(self, *args, **kwargs)
        if extra_state and "task_state" in extra_state:
            self.task.load_state_dict(extra_state["task_state"])
        return extra_state

    Trainer.state_dict, Trainer.load_checkpoint = state_dict, load_checkpoint


@functools.cache
def wandb_begins_once() -> None:
    """Symptom: with `--wandb-project` every epoch and every validation leaves an empty run folder of W&B.

    fairseq 0.12.2 calls `wandb.init` for each of them and relies on getting the same run. It does get it, but wandb
    (seen with 0.31) makes the folder of a new run first. Scope: fairseq's W&B progress bar, once a run has begun.
    """
    from fairseq.logging import progress_bar

    original = progress_bar.WandBProgressBarWrapper.__init__

    @functools.wraps(original)
    def init(self: Any, wrapped_bar: Any, *args: Any, **kwargs: Any) -> None:
        if getattr(progress_bar.wandb, "run", None) is None:
            original(self, wrapped_bar, *args, **kwargs)
        else:
            self.wrapped_bar = wrapped_bar

    progress_bar.WandBProgressBarWrapper.__init__ = init


def no_cudnn_attention() -> None:
    """Symptom: attention on batches of ragged shapes takes 10 ms a call: cuDNN plans anew for every shape.

    Since torch 2.5, on CUDA. Scope: the whole process, hence for launchers only. Nothing changes without CUDA.
    """
    import torch

    torch.backends.cuda.enable_cudnn_sdp(False)


KNOWN_WARNINGS = (
    r"`torch\.cuda\.amp\.(autocast|GradScaler)\(args\.\.\.\)` is deprecated",
    r"Support for mismatched key_padding_mask and attn_mask is deprecated",
    r"amp_C fused kernels unavailable",
    r"'pin_memory' argument is set as true but no accelerator is found",
    r"hydra\.experimental\.\w+\(\) is no longer experimental",
    r"\s*The strict flag in the compose API is deprecated",
    r"\s*The version_base parameter is not specified",
    r'\s*version_base="1\.1" selects Hydra 1\.1 compatibility behavior',
    r"Future Hydra versions will no longer change working directory",
    r"In '.*': Usage of deprecated keyword in package header",
    r"\s*'config' is validated against ConfigStore schema with the same name",
)


@contextmanager
def quiet() -> Iterator[None]:
    """Symptom: fairseq's old calls draw warnings that its user can do nothing about.

    Since torch 2.4 and hydra 1.1. Scope: these messages, while this context (one fairseq command) is open.
    """
    with warnings.catch_warnings():
        for message in KNOWN_WARNINGS:
            warnings.filterwarnings("ignore", message)
        yield
