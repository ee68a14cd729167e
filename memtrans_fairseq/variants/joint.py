"""MemTransformer: memory rows are treated like any other element (arXiv 2006.11527, figure 1b).

    H = FF(Att(X, X)),  X = [memory; sequence]

where Att(q, kv) = LN(q + MHA(q, kv, kv)) and FF(a) = LN(a + FFN(a)): an ordinary layer, fairseq's own. So with no
memory tokens the model *is* fairseq's transformer, down to the names in its checkpoints.
"""

from fairseq.models.transformer import TransformerConfig
from fairseq.modules.transformer_layer import TransformerEncoderLayerBase

from . import LayerMaker, register_variant


@register_variant("mem", fewest_tokens=0)
def layers(cfg: TransformerConfig) -> LayerMaker:
    return lambda: TransformerEncoderLayerBase(cfg)
