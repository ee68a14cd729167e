"""fairseq's mixed precision, cured: what a step does, and what comes back when a training goes on."""

import warnings
from argparse import Namespace
from types import SimpleNamespace

import memtrans_fairseq  # noqa: F401  (must come before fairseq)
from memtrans_fairseq.optim import deferred_amp
from memtrans_fairseq.optim.fused_adam import AdamW, FusedAdam

import pytest
import torch
from fairseq.logging import metrics
from fairseq.optim.amp_optimizer import AMPOptimizer
from fairseq.optim.fp16_optimizer import FP16Optimizer
from fairseq.trainer import Trainer
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


class Deferred:
    """Two weights under the deferred mixed precision, here with the CPU's scaler and fused Adam."""

    def __init__(self, minimum: float = 1e-4) -> None:
        self.weights = torch.nn.Parameter(torch.ones(2))
        values = {"lr": [0.1], "adam_betas": "(0.9, 0.98)", "adam_eps": 1e-8, "weight_decay": 0.0}
        adam = Namespace(**values, fp16_adam_stats=False, use_old_adam=False)
        cfg = OmegaConf.create({"common": {"fp16_init_scale": 128, "min_loss_scale": minimum}, "optimizer": {}})
        inner = FusedAdam(adam, [self.weights])
        inner._optimizer = AdamW([self.weights], lr=0.1, fused=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # CUDA's scaler, as above
            self.optimizer = deferred_amp.AMPOptimizer(cfg, [self.weights], inner)
        self.optimizer._grad_scaler = deferred_amp.DeferredScaler("cpu", init_scale=128.0)

    def update(self, factor: float) -> float:
        """Returns the norm that is told."""
        self.optimizer.zero_grad()
        self.optimizer.backward((factor * self.weights).sum())
        norm = self.optimizer.clip_grad_norm(0.0)
        self.optimizer.step()
        return norm.item()


def test_deferred_precision_tells_what_the_update_before_was():
    deferred = Deferred()
    told = [deferred.update(factor) for factor in (1.0, 2.0, 3.0)]
    assert told == pytest.approx([2**0.5, 2**0.5, 2 * 2**0.5])
    assert deferred.optimizer.scaler.get_scale() == 128


def test_deferred_precision_leaves_out_an_update_that_overflows_and_goes_on():
    deferred = Deferred()
    deferred.update(1.0)
    before = deferred.weights.detach().clone()
    deferred.update(torch.inf)
    assert torch.equal(deferred.weights, before)
    assert deferred.optimizer.state_dict()["scaler"]["scale"] == 64, "exact in a checkpoint"
    assert deferred.update(1.0) == 0, "the one that was left out"
    assert not torch.equal(deferred.weights, before)
    deferred.update(1.0)
    assert deferred.optimizer.scaler.get_scale() == 64


def test_deferred_precision_ends_a_training_that_explodes():
    deferred = Deferred(minimum=16.0)
    with pytest.raises(FloatingPointError, match=r"loss scale has reached 16\.0.*lower learning rate"):
        set(map(deferred.update, [torch.nan] * 10))
    assert deferred.weights.tolist() == [1, 1]


def test_deferred_precision_goes_on_from_a_training_without_it_on_a_cpu():
    before, after = Deferred(), Deferred()
    before.optimizer.fp32_optimizer._optimizer = torch.optim.AdamW([before.weights], lr=0.1, fused=False)
    before.weights.grad = torch.ones(2)
    before.optimizer.fp32_optimizer.step()
    assert type(after.optimizer).__name__ == AMPOptimizer.__name__, "what fairseq asks of a checkpoint"
    after.optimizer.load_state_dict(before.optimizer.state_dict())
    after.update(torch.inf)
    assert after.weights.tolist() == [1, 1]
    after.update(1.0)
    assert after.weights.tolist() != [1, 1]


def test_metrics_of_an_update_are_logged_but_not_read():
    """The caller gets something that is not None; what the log prints afterwards is there."""
    trainer = SimpleNamespace(
        cfg=OmegaConf.create({"optimization": {"clip_norm": 0.0}}),
        task=SimpleNamespace(reduce_metrics=lambda outputs, criterion: metrics.log_scalar("loss", outputs[0], round=1)),
        get_criterion=lambda: None,
        tpu=False,
    )
    with metrics.aggregate("updates") as log:
        for loss in (1.0, 2.0):
            assert Trainer._reduce_and_log_stats(trainer, [loss], 1, torch.ones(())) is not None
    assert log.get_smoothed_values()["loss"] == 1.5
    validated = Trainer._reduce_and_log_stats(trainer, [3.0], 1)
    assert validated == {"loss": 3.0, "sample_size": 1}
