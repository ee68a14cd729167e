"""MemBottleneck: sequence elements see each other only through memory (arXiv 2006.11527, figure 1d).

    H_mem = FF_m(Att_m(X_mem, X)),  then  H_seq = FF_s(Att_s(X_seq, H_mem))

Its cost is linear in the length of the sequence: no T x T matrix ever exists.
"""

from typing import Any

from torch import Tensor, nn

from . import LayerMaker, Parts, Rows, register_variant


class BottleneckLayer(nn.Module):
    def __init__(self, memory_block: nn.Module, sequence_block: nn.Module) -> None:
        super().__init__()
        self.memory_block = memory_block
        self.sequence_block = sequence_block

    def forward(self, x: Tensor, rows: Rows) -> Tensor:
        memory = rows.write(self.memory_block, x)
        return rows.join(memory, rows.read(self.sequence_block, memory, x))


@register_variant("mem_bottleneck", bottleneck=True)
def layers(cfg: Any, parts: Parts) -> LayerMaker:
    return lambda: BottleneckLayer(parts.block(), parts.block())
