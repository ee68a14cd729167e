"""Cures of training with several processes."""

import contextlib
import functools
import multiprocessing
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from .launcher import no_cudnn_attention, quiet

BUCKET = 2**30  # bytes of gradients that are summed in one piece


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


@functools.cache
def gradients_are_summed_in_one_piece() -> None:
    """Symptom: with several GPUs each waits for its CPU, which copies gradients to a buffer and back one by one.

    In fairseq 0.12.2 with any torch: hundreds of launches an update. Scope: its "legacy" data-parallel wrapper, for
    parameters that all ranks have. The sums are the same.
    """
    import torch
    from fairseq.distributed import LegacyDistributedDataParallel, utils
    from torch._utils import _flatten_dense_tensors, _take_tensors, _unflatten_dense_tensors

    original = LegacyDistributedDataParallel.all_reduce_grads

    @functools.wraps(original)
    def all_reduce_grads(self: Any) -> None:
        parameters = [parameter for parameter in self.module.parameters() if parameter.requires_grad]
        if any(hasattr(parameter, "expert") for parameter in parameters):
            original(self)
            return
        if self.accumulate_grads:
            return
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        for gradients in _take_tensors([parameter.grad for parameter in parameters], BUCKET):
            whole = _flatten_dense_tensors(gradients).div_(self.world_size)
            utils.all_reduce(whole, self.process_group)
            torch._foreach_copy_(gradients, _unflatten_dense_tensors(whole, gradients))

    LegacyDistributedDataParallel.all_reduce_grads = all_reduce_grads


def sums_on_the_cpu(group: Any) -> bool:
    """Whether numbers of the CPU need not go through the GPU, where they would wait behind the work of an update."""
    import torch

    return "cpu:" in torch.distributed.get_backend_config(group)


@functools.cache
def numbers_of_the_cpu_are_summed_there() -> None:
    """Symptom: with several GPUs each stands still after every update, until counts of words are back on its CPU.

    In fairseq 0.12.2 with any torch: what is counted on the CPU is summed on the GPU, behind the update's own work, and
    so is the norm of gradients that `optim.deferred_amp` has on the CPU. Scope: groups of processes that have gloo for
    the CPU, as the harness begins them; those that fairseq begins have nccl alone, and wait.
    """
    import torch
    from fairseq.distributed import utils
    from fairseq.trainer import Trainer

    all_reduce_dict, check_norms = utils.all_reduce_dict, Trainer._check_grad_norms

    @functools.wraps(all_reduce_dict)
    def apart(data: Mapping[str, Any], device: torch.device, group: Any) -> dict[str, Any]:
        if device.type == "cpu" or not sums_on_the_cpu(group):
            return all_reduce_dict(data, device, group)
        there = {name: x for name, x in data.items() if torch.is_tensor(x) and x.device.type == device.type}
        here = {name: torch.as_tensor(x, dtype=torch.double) for name, x in data.items() if name not in there}
        sums = all_reduce_dict(here, torch.device("cpu"), group)
        sums = {name: total if torch.is_tensor(data[name]) else total.item() for name, total in sums.items()}
        return all_reduce_dict(there, device, group) | sums

    @functools.wraps(check_norms)
    def check_where_the_norm_is(self: Any, grad_norm: Any) -> None:
        if self._grad_norm_buf is not None and sums_on_the_cpu(self.data_parallel_process_group):
            self._grad_norm_buf = self._grad_norm_buf.to(grad_norm.device)
        check_norms(self, grad_norm)

    utils.all_reduce_dict, Trainer._check_grad_norms = apart, check_where_the_norm_is
