"""Adam in torch's fused kernels: fairseq's own updates one parameter after another, in a dozen kernels each."""

from collections.abc import Iterable
from typing import Any

import torch
from fairseq.optim import register_optimizer
from fairseq.optim.adam import FairseqAdam, FairseqAdamConfig
from fairseq.optim.fairseq_optimizer import FairseqOptimizer
from torch import Tensor

from ..variants import SettingError


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
        self._optimizer = torch.optim.AdamW(parameters, fused=parameters[0].is_cuda, **self.optimizer_config)
