"""Adam in torch's fused kernels: fairseq's own updates one parameter after another, in a dozen kernels each."""

import inspect
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from fairseq.optim import register_optimizer
from fairseq.optim.adam import FairseqAdam, FairseqAdamConfig
from fairseq.optim.fairseq_optimizer import FairseqOptimizer
from torch import Tensor

from ..variants import SettingError


class AdamW(torch.optim.AdamW):
    """torch's, which goes on from a checkpoint of any device: fused or not as it was made, not as that one was."""

    # without torch's wrapper, which imports its compiler: see `compat.training.optimizers_leave_the_compiler_alone`
    step = torch.no_grad()(inspect.unwrap(torch.optim.AdamW.step))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        groups = [group | {"fused": self.defaults["fused"]} for group in state_dict["param_groups"]]
        super().load_state_dict(state_dict | {"param_groups": groups})


@register_optimizer("fused_adam", dataclass=FairseqAdamConfig)
class FusedAdam(FairseqOptimizer):
    """torch.optim.AdamW under fairseq's options of `adam`, fused on a GPU.

    It computes what fairseq's `adam` does, but for epsilon, which torch does not scale by the second bias correction.
    """

    supports_flat_params = True
    optimizer_config = FairseqAdam.optimizer_config

    def __init__(self, cfg: Any, params: Iterable[Tensor]) -> None:
        super().__init__(cfg)
        if cfg.fp16_adam_stats or cfg.use_old_adam:
            raise SettingError("fused_adam has no --fp16-adam-stats and no --use-old-adam: use --optimizer adam")
        parameters = list(params)
        self._optimizer = AdamW(parameters, fused=parameters[0].is_cuda, **self.optimizer_config)

    def multiply_grads(self, c: Any) -> None:
        if gradients := [parameter.grad for parameter in self.params if parameter.grad is not None]:
            torch._foreach_mul_(gradients, c)

    def clip_grad_norm(self, max_norm: float, aggregate_norm_fn: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """All gradients at once, as above. 0 is no limit. Returns their norm before."""
        if aggregate_norm_fn is not None:
            return super().clip_grad_norm(max_norm, aggregate_norm_fn)
        return torch.nn.utils.clip_grad_norm_(self.params, max_norm or math.inf)
