"""MemCtrl: memory has sub-layers of its own (arXiv 2006.11527, figure 1c).

    H_mem = FF_m(Att_m(X_mem, X)),  H_seq = FF_s(Att_s(X_seq, X))

With `--share-memory-layers` (the paper's MemCtrl Shared) one memory sub-network serves all layers. The paper does not
say here what exactly is shared; one Att_m and FF_m for every layer is this project's reading of it.
"""

from dataclasses import dataclass, field

import torch
from fairseq.dataclass import FairseqDataclass
from fairseq.models.transformer import TransformerConfig
from torch import Tensor

from ..modules.block import Block, MemoryLayer
from . import LayerMaker, register_variant


@dataclass
class CtrlOptions(FairseqDataclass):
    share_memory_layers: bool = field(
        default=False, metadata={"help": "one memory sub-network (attention and FFN) for all layers"}
    )


class CtrlLayer(MemoryLayer):
    def __init__(self, cfg: TransformerConfig, memory_block: Block) -> None:
        super().__init__(cfg)
        self.memory_block = memory_block
        self.sequence_block = Block(cfg)

    def forward(self, x: Tensor, encoder_padding_mask: Tensor | None = None) -> Tensor:
        memory, sequence = self.split(x)
        return torch.cat(
            [
                self.memory_block(memory, x, encoder_padding_mask),
                self.sequence_block(sequence, x, encoder_padding_mask),
            ]
        )


@register_variant("mem_ctrl", options=CtrlOptions)
def layers(cfg: TransformerConfig) -> LayerMaker:
    if cfg.share_memory_layers:
        shared = Block(cfg)
        return lambda: CtrlLayer(cfg, shared)
    return lambda: CtrlLayer(cfg, Block(cfg))
