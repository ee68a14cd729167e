"""Automatic mixed precision whose updates wait for no number: a GPU that is asked for one stands still meanwhile.

fairseq's trainer asks three times an update: twice whether gradients are finite, and for the loss scale. Here the
device decides by itself whether an update is made, as torch's scaler and fused optimisers can, and the trainer is told
norm and scale of the update before, which are there already.
"""

import logging
from collections.abc import Callable
from typing import Any

import torch
from fairseq.optim import amp_optimizer
from torch import Tensor

from ..modules.transfers import OnItsWay

logger = logging.getLogger(__name__)


class DeferredScaler(torch.amp.GradScaler):
    """torch's, which says the loss scale of the update before, unless for a checkpoint."""

    known: float | None = None

    def get_scale(self) -> float:
        return super().get_scale() if self.known is None else self.known

    def state_dict(self) -> dict[str, Any]:
        self.known = None
        return super().state_dict()


class AMPOptimizer(amp_optimizer.AMPOptimizer):
    """fairseq's, for inner optimisers that leave out an update on the device (torch's fused ones).

    It has the same name, for which a checkpoint is asked: one goes on with the other.

    An update with gradients that are not finite changes nothing but the loss scale, and counts; fairseq's trainer would
    repeat its batch. The norm of gradients that is logged is that of the update before.
    """

    def __init__(self, cfg: Any, params: Any, fp32_optimizer: Any, **kwargs: Any) -> None:
        super().__init__(cfg, params, fp32_optimizer, **kwargs)
        interval = getattr(cfg.common, "amp_scale_window", None) or 2000  # torch's own
        self._grad_scaler = DeferredScaler("cuda", cfg.common.fp16_init_scale, growth_interval=interval)
        self._before: OnItsWay | None = None

    def clip_grad_norm(self, max_norm: float, aggregate_norm_fn: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Returns the norm of the update before, on the CPU; 0 if it was not finite. Raises FloatingPointError."""
        self.scaler.unscale_(self.optimizer)
        norm = self.fp32_optimizer.clip_grad_norm(max_norm, aggregate_norm_fn)
        now = OnItsWay(torch.stack([norm, self.scaler.scale(torch.ones_like(norm))]))
        before, self._before = self._before or now, now
        norm, scale = before.arrived()
        self.scaler.known = scale.item()
        if norm.isfinite():
            return norm
        smaller = self.scaler.known * self.scaler.get_backoff_factor()
        if smaller <= self.min_loss_scale:
            reason = f"the loss scale has reached {self.min_loss_scale}: the loss is probably exploding"
            raise FloatingPointError(f"AMP: {reason}. Try a lower learning rate, or train.precision=fp32")
        logger.info(f"AMP: gradients overflowed: an update was left out, the loss scale set to {smaller}")
        return torch.zeros(())
