"""fairseq's label-smoothed cross-entropy, on packed batches (see `packing`) and on its own."""

from dataclasses import dataclass, field
from typing import Any

from fairseq.criterions import register_criterion
from fairseq.criterions.label_smoothed_cross_entropy import (
    LabelSmoothedCrossEntropyCriterion,
    LabelSmoothedCrossEntropyCriterionConfig,
)
from fairseq.distributed import LegacyDistributedDataParallel, ModuleProxyWrapper
from fairseq.models.transformer import TransformerModelBase
from torch import Tensor

from ..modules.graphs import copied, keep_gradients
from ..packing.attention import check_kernel
from ..packing.forward import check, compiled_loss, loss_of, settle
from ..variants import SettingError


@dataclass
class PackedCrossEntropyConfig(LabelSmoothedCrossEntropyCriterionConfig):
    compile: bool = field(default=False, metadata={"help": "compile the model with its loss: a minute at the start"})
    cuda_graphs: bool = field(
        default=False, metadata={"help": "run what is compiled as CUDA graphs: no update waits for launches of kernels"}
    )


@register_criterion("packed_label_smoothed_cross_entropy", dataclass=PackedCrossEntropyConfig)
class PackedCrossEntropy(LabelSmoothedCrossEntropyCriterion):
    def __init__(
        self,
        task: Any,
        sentence_avg: bool,
        label_smoothing: float,
        ignore_prefix_size: int,
        report_accuracy: bool,
        compile: bool,
        cuda_graphs: bool,
    ) -> None:
        if ignore_prefix_size or report_accuracy:
            raise SettingError("packed batches know no --ignore-prefix-size and no --report-accuracy: leave them out")
        if cuda_graphs and not compile:
            raise SettingError("--cuda-graphs is for what is compiled: add --compile")
        super().__init__(task, sentence_avg, label_smoothing)
        self.loss_of = compiled_loss(cuda_graphs) if compile else loss_of
        self.cuda_graphs = cuda_graphs
        self.settled = False

    def forward(self, model: Any, sample: dict[str, Any], reduce: bool = True) -> tuple[Tensor, int, dict[str, Any]]:
        if "packed" not in sample:
            return super().forward(model, sample, reduce)
        model = _unwrapped(model)
        if not self.settled:
            check(model)
            check_kernel(model.decoder.output_projection.weight)
            settle(model)
            self.settled = True
        batch = sample["packed"].to(model.decoder.output_projection.weight.device)
        if self.cuda_graphs:
            keep_gradients(model)
        loss, plain = self.loss_of(model, batch, self.eps)
        size = sample["nsentences"] if self.sentence_avg else sample["ntokens"]
        counts = {"ntokens": sample["ntokens"], "nsentences": sample["nsentences"], "sample_size": size}
        return loss, size, {"loss": copied(loss), "nll_loss": copied(plain), **counts}


def _unwrapped(model: Any) -> Any:
    """The model itself. Raises SettingError for a wrapper whose own `forward` gathers gradients."""
    while not isinstance(model, TransformerModelBase):
        if not isinstance(model, ModuleProxyWrapper | LegacyDistributedDataParallel):
            raise SettingError(f"packed batches cannot train a {type(model).__name__}: set --ddp-backend legacy_ddp")
        model = model.module
    return model
