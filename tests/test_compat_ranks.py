"""Cures of training with several processes: the same sums, on the same side."""

from types import SimpleNamespace

import memtrans_fairseq  # noqa: F401  (must come before fairseq)
from memtrans_fairseq.preemption import _any_rank

import pytest
import torch
from fairseq.distributed import utils
from places import python


@pytest.fixture
def group(tmp_path):
    """A group of one that sums on the CPU with gloo, as one with GPUs does beside nccl."""
    torch.distributed.init_process_group("cpu:gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    yield torch.distributed.group.WORLD
    torch.distributed.destroy_process_group()


def test_numbers_of_the_cpu_stay_numbers_without_loss(group):
    """Where the rest is on a GPU: an optimiser that multiplies by one must not get a tensor of the CPU instead."""
    given = {"words": 2**53 - 1, "seconds": 123456789.123, "counted": torch.tensor(7)}
    found = utils.all_reduce_dict(given, torch.device("cuda"), group)
    assert found["words"] == given["words"]
    assert found["seconds"] == given["seconds"]
    assert not torch.is_tensor(found["words"])
    assert not torch.is_tensor(found["seconds"])
    assert torch.equal(found["counted"], torch.tensor(7.0, dtype=torch.double))


def test_whether_to_stop_is_asked_without_the_gpu(group):
    """After every update: it would wait for the GPU to end that one before it prepares the next."""
    trainer = SimpleNamespace(data_parallel_world_size=2, data_parallel_process_group=group, device="a GPU")
    assert [_any_rank(trainer, asked) for asked in (False, True)] == [False, True]


GRADIENTS = """
import sys
import memtrans_fairseq, torch, torch.distributed, torch.multiprocessing
from fairseq.distributed import LegacyDistributedDataParallel as Parallel

def rank(number, meeting):
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=number, world_size=2)
    found = []
    for reduce in (Parallel.all_reduce_grads, Parallel.all_reduce_grads.__wrapped__):
        torch.manual_seed(number)
        model = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.LayerNorm(5), torch.nn.Linear(5, 2))
        model[0].bias.requires_grad = False
        parallel = Parallel(model, torch.distributed.group.WORLD)
        parallel(torch.randn(4, 3)).square().sum().backward()
        if number:
            model[1].bias.grad = None
        with parallel.no_sync():
            before = model[2].weight.grad.clone()
            reduce(parallel)
            assert torch.equal(model[2].weight.grad, before)
        reduce(parallel)
        assert not torch.equal(model[2].weight.grad, before) and model[0].bias.grad is None
        found.append([p.grad for p in model.parameters() if p.requires_grad])
    assert len(found[0]) == 5
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*found))
    torch.distributed.destroy_process_group()  # else its threads may abort a process that ends: see compat.ranks

if __name__ == "__main__":
    torch.multiprocessing.spawn(rank, args=sys.argv[1:], nprocs=2)
"""


@pytest.mark.slow
def test_gradients_summed_in_one_piece_are_those_summed_one_by_one(tmp_path):
    program = tmp_path / "gradients.py"
    program.write_text(GRADIENTS)
    done = python(str(program), str(tmp_path / "meeting"))
    assert done.returncode == 0, done.stderr
