"""The optimiser `fused_adam`: what it does to all gradients at once is what fairseq does to one after another."""

from argparse import Namespace

import memtrans_fairseq  # noqa: F401  (must come before fairseq)
from memtrans_fairseq.optim.fused_adam import FusedAdam

import pytest
import torch
from fairseq.optim.fairseq_optimizer import FairseqOptimizer

CONFIG = Namespace(
    lr=[0.1], adam_betas="(0.9, 0.98)", adam_eps=1e-8, weight_decay=0.0, fp16_adam_stats=False, use_old_adam=False
)


def optimizer() -> FusedAdam:
    draw = torch.Generator().manual_seed(0)
    parameters = [torch.nn.Parameter(torch.randn(size, generator=draw)) for size in ((3, 2), (4,), (1,))]
    for parameter in parameters[:2]:  # the last has taken no part
        parameter.grad = torch.randn(parameter.shape, generator=draw)
    return FusedAdam(CONFIG, parameters)


def gradients(of: FusedAdam) -> list[torch.Tensor]:
    return [parameter.grad for parameter in of.params if parameter.grad is not None]


@pytest.mark.parametrize("factor", [0.5, torch.tensor(0.25)], ids=["number", "tensor"])
def test_multiplying_gradients(factor):
    ours, theirs = optimizer(), optimizer()
    ours.multiply_grads(factor)
    FairseqOptimizer.multiply_grads(theirs, factor)
    assert len(gradients(ours)) == 2
    torch.testing.assert_close(gradients(ours), gradients(theirs), rtol=0, atol=0)


@pytest.mark.parametrize("limit", [0.25, 100.0, 0.0])
def test_clipping_gradients(limit):
    ours, theirs = optimizer(), optimizer()
    norm, expected = ours.clip_grad_norm(limit), FairseqOptimizer.clip_grad_norm(theirs, limit)
    torch.testing.assert_close(norm, expected)
    torch.testing.assert_close(gradients(ours), gradients(theirs))
    doubled = optimizer()  # a norm that other processes have part in
    assert doubled.clip_grad_norm(limit, lambda own: 2 * own) == pytest.approx(2 * expected)


def test_gradients_that_are_not_finite_are_told_and_not_hidden():
    broken = optimizer()
    gradients(broken)[0][0, 0] = torch.inf
    assert not torch.isfinite(broken.clip_grad_norm(0.25))
