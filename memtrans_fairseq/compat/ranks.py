"""Cures of training with several processes."""

import functools
import multiprocessing
from collections.abc import Callable
from typing import Any

from .launcher import no_cudnn_attention, quiet


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
