"""MemTransformer: memory rows are treated like any other element (arXiv 2006.11527, figure 1b).

    H = FF(Att(X, X)),  X = [memory; sequence]

where Att(q, kv) = LN(q + MHA(q, kv, kv)) and FF(a) = LN(a + FFN(a)): an ordinary layer, the host's own. So with no
memory tokens the model *is* fairseq's transformer, or Transformer-XL, down to the names in its checkpoints.
"""

from typing import Any

from . import LayerMaker, Parts, register_variant


@register_variant("mem", fewest_tokens=0)
def layers(cfg: Any, parts: Parts) -> LayerMaker:
    return parts.layer
