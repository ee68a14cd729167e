"""fairseq's mixed precision, cured: what a step does, and what comes back when a training goes on."""

import warnings
from types import SimpleNamespace

import memtrans_fairseq  # noqa: F401  (must come before fairseq)

import pytest
import torch
from fairseq.optim.amp_optimizer import AMPOptimizer
from fairseq.optim.fp16_optimizer import FP16Optimizer
from omegaconf import OmegaConf


def amp_optimizer(weights: torch.nn.Parameter) -> AMPOptimizer:
    """Plain SGD, learning rate 0.1, with loss scale 128."""
    sgd = {"_name": "sgd", "lr": [0.1], "momentum": 0.0, "weight_decay": 0.0}
    cfg = OmegaConf.create({"common": {"fp16_init_scale": 128, "min_loss_scale": 1e-4}, "optimizer": sgd})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fairseq asks for CUDA's scaler; the CPU's takes its place below
        optimizer = AMPOptimizer.build_optimizer(cfg, [weights])
    optimizer._grad_scaler = torch.amp.GradScaler("cpu", init_scale=128.0, growth_interval=3)
    return optimizer


def amp_step(step) -> torch.Tensor:
    """The weights after one step on half their squared norm."""
    weights = torch.nn.Parameter(torch.ones(3))
    optimizer = amp_optimizer(weights)
    optimizer.backward(weights.pow(2).sum() / 2)
    assert optimizer.clip_grad_norm(0.0).item() == pytest.approx(3**0.5)
    step(optimizer)
    return weights.detach()


def test_amp_divides_the_gradients_by_the_loss_scale_once():
    torch.testing.assert_close(amp_step(AMPOptimizer.step), torch.full((3,), 0.9))
    torch.testing.assert_close(amp_step(AMPOptimizer.step.__wrapped__), torch.full((3,), 1 - 0.1 / 128))


def test_amp_multiplies_gradients_as_its_optimizer_does(monkeypatch):
    multiplied: list[float] = []
    optimizer = AMPOptimizer.__new__(AMPOptimizer)
    adam = SimpleNamespace(param_groups=[{"params": []}])
    optimizer.fp32_optimizer = SimpleNamespace(optimizer=adam, multiply_grads=multiplied.append)
    optimizer.multiply_grads(0.5)
    assert multiplied == [0.5]
    monkeypatch.delattr(AMPOptimizer, "multiply_grads")
    optimizer.multiply_grads(0.5)  # uncured: one by one
    assert multiplied == [0.5]


def test_amp_skips_a_step_with_infinite_gradients():
    weights = torch.nn.Parameter(torch.ones(3))
    scaler = torch.amp.GradScaler("cpu", init_scale=128.0)
    optimizer = torch.optim.SGD([weights], lr=0.1)
    scaler.scale((weights * torch.inf).sum()).backward()
    scaler.unscale_(optimizer)
    AMPOptimizer.step(SimpleNamespace(scaler=scaler, optimizer=optimizer))
    assert weights.tolist() == [1, 1, 1]
    assert scaler.get_scale() == 64


def test_amp_goes_on_with_its_loss_scale():
    """With the scale itself, and with the steps towards the next growth."""
    weights = torch.nn.Parameter(torch.ones(3))
    whole, parts = amp_optimizer(weights), amp_optimizer(weights)

    def step(optimizer: AMPOptimizer, factor: float) -> None:
        optimizer.zero_grad()
        optimizer.backward((factor * weights).sum())
        optimizer.clip_grad_norm(0.0)
        optimizer.step()

    for factor in (torch.inf, 1.0, 1.0):
        step(whole, factor)
    assert whole.scaler.get_scale() == 64
    saved = whole.state_dict()
    parts.load_state_dict(saved)
    assert "scaler" in saved, "the caller's is left as it was"
    step(whole, 1.0)
    step(parts, 1.0)
    assert parts.scaler.get_scale() == whole.scaler.get_scale() == 128
    earlier = amp_optimizer(weights)
    earlier.load_state_dict({key: value for key, value in saved.items() if key != "scaler"})
    assert earlier.scaler.get_scale() == 128, "of a checkpoint without, as it starts"


class Halved:
    """What fairseq's fp16 optimiser needs of a model: two weights, plain SGD."""

    def __init__(self, *values: float, **settings: float) -> None:
        self.weights = [torch.nn.Parameter(torch.tensor([value]).half()) for value in values]
        sgd = {"_name": "sgd", "lr": [0.1], "momentum": 0.9, "weight_decay": 0.0}
        common = {"fp16_init_scale": 128, "fp16_scale_window": 3, "fp16_scale_tolerance": 0.0, "min_loss_scale": 1e-4}
        common |= {"threshold_loss_scale": None, "fp16_no_flatten_grads": True, "bf16": False, **settings}
        self.optimizer = FP16Optimizer.build_optimizer(
            OmegaConf.create({"common": common, "optimizer": sgd}), self.weights
        )

    @property
    def exact(self) -> list[float]:
        return [weight.item() for weight in self.optimizer.fp32_params]


def test_half_precision_goes_on_with_exact_weights_and_the_settings_of_the_command():
    before = Halved(1.0, 2.0)
    for weight in before.optimizer.fp32_params:
        weight.data += 1e-5  # less than half precision holds
    before.optimizer.scaler.update()
    saved = before.optimizer.state_dict()
    after = Halved(1.0, 2.0, fp16_scale_window=100)
    after.optimizer.load_state_dict(saved)
    assert after.exact == before.exact != [1.0, 2.0]
    assert after.optimizer.scaler._iter == 1
    assert after.optimizer.scaler.scale_window == 100


def test_weights_that_were_changed_in_a_checkpoint_stay_changed():
    before = Halved(1.0, 2.0)
    averaged = Halved(1.0, 5.0)
    averaged.optimizer.load_state_dict(before.optimizer.state_dict())
    assert averaged.exact == [1.0, 5.0]
    saved = before.optimizer.state_dict()
    del saved["fp32_params"], saved["scaler"]  # as fairseq itself writes it
    averaged.optimizer.load_state_dict(saved)
    assert averaged.exact == [1.0, 5.0]
