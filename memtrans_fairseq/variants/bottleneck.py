"""MemBottleneck: sequence elements see each other only through memory (arXiv 2006.11527, figure 1d).

    H_mem = FF_m(Att_m(X_mem, X)),  then  H_seq = FF_s(Att_s(X_seq, H_mem))

Attention is M x (M + T) and T x M: its cost is linear in T, and no T x T matrix ever exists.
"""

import torch
from fairseq.models.transformer import TransformerConfig
from torch import Tensor

from ..modules.block import Block, MemoryLayer
from . import LayerMaker, register_variant


class BottleneckLayer(MemoryLayer):
    def __init__(self, cfg: TransformerConfig) -> None:
        super().__init__(cfg)
        self.memory_block = Block(cfg)
        self.sequence_block = Block(cfg)

    def forward(self, x: Tensor, encoder_padding_mask: Tensor | None = None) -> Tensor:
        memory, sequence = self.split(x)
        memory = self.memory_block(memory, x, encoder_padding_mask)
        return torch.cat([memory, self.sequence_block(sequence, memory)])


@register_variant("mem_bottleneck")
def layers(cfg: TransformerConfig) -> LayerMaker:
    return lambda: BottleneckLayer(cfg)
