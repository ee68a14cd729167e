"""Negative log-likelihood of a segment of a stream, for models that carry state and for fairseq's own.

Logged as fairseq logs losses: per token, in bits, with the perplexity beside it.
"""

from typing import Any

from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.criterions.cross_entropy import CrossEntropyCriterion
from fairseq.dataclass import FairseqDataclass
from torch import Tensor

from ..streaming import token_losses


@register_criterion("streaming_nll", dataclass=FairseqDataclass)
class StreamingNLL(FairseqCriterion):
    """The state before the segment comes as `sample["state"]`; the one after it is left as `sample["next_state"]`."""

    reduce_metrics = staticmethod(CrossEntropyCriterion.reduce_metrics)

    def forward(self, model: Any, sample: dict[str, Any], reduce: bool = True) -> tuple[Tensor, int, dict[str, Any]]:
        source, target = sample["net_input"]["src_tokens"], sample["target"]
        losses, sample["next_state"] = token_losses(model, source, target, sample.get("state"))
        loss = losses.sum() if reduce else losses
        counts = {"ntokens": sample["ntokens"], "nsentences": sample["nsentences"], "sample_size": sample["ntokens"]}
        return loss, sample["ntokens"], {"loss": losses.data.sum(), **counts}

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        return True
