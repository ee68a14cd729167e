"""Cures of training with several processes."""

import contextlib
import functools
import multiprocessing
from collections.abc import Callable, Iterator
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
    with quiet(), group_of_its_own():
        utils.fairseq_distributed_main(rank, main, cfg, kwargs)


@contextlib.contextmanager
def group_of_its_own() -> Iterator[None]:
    """Symptom: a rank ends with SIGABRT after its last line: "terminate called without an active exception".

    fairseq leaves its process group to the end of the process, whose threads may then still let go of a tensor, and
    Python ends a thread that wants the interpreter when it is gone (CPython issue 87135). Scope: a group that fairseq
    began, in a rank that has done its work. One that fails leaves the group: its peers may wait in it.
    """
    import torch.distributed
    from fairseq.distributed import utils

    begun = torch.distributed.is_initialized()
    yield
    if torch.distributed.is_initialized() and not begun:
        torch.distributed.destroy_process_group()
        vars(utils.get_global_group).pop("_global_group", None)
