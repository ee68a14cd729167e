"""MemCtrl: memory has sub-layers of its own (arXiv 2006.11527, figure 1c).

    H_mem = FF_m(Att_m(X_mem, X)),  H_seq = FF_s(Att_s(X_seq, X))

With `--share-memory-layers` (the paper's MemCtrl Shared) one memory sub-network serves all layers. The paper does not
say here what exactly is shared; one Att_m and FF_m for every layer is this project's reading of it.
"""

from dataclasses import dataclass, field
from typing import Any

from fairseq.dataclass import FairseqDataclass
from torch import Tensor, nn

from . import LayerMaker, Parts, Rows, register_variant


@dataclass
class CtrlOptions(FairseqDataclass):
    share_memory_layers: bool = field(
        default=False, metadata={"help": "one memory sub-network (attention and FFN) for all layers"}
    )


class CtrlLayer(nn.Module):
    def __init__(self, memory_block: nn.Module, sequence_block: nn.Module) -> None:
        super().__init__()
        self.memory_block = memory_block
        self.sequence_block = sequence_block

    def forward(self, x: Tensor, rows: Rows) -> Tensor:
        return rows.join(rows.write(self.memory_block, x), rows.attend(self.sequence_block, x))


@register_variant("mem_ctrl", options=CtrlOptions)
def layers(cfg: Any, parts: Parts) -> LayerMaker:
    if cfg.share_memory_layers:
        shared = parts.block()
        return lambda: CtrlLayer(shared, parts.block())
    return lambda: CtrlLayer(parts.block(), parts.block())
