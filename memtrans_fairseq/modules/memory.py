"""The learned [mem] vectors, and the options that say how many there are and how they start."""

from dataclasses import dataclass, field
from typing import Any

import torch
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from torch import Tensor, nn


@dataclass
class MemoryOptions(FairseqDataclass):
    memory_tokens: int = field(default=10, metadata={"help": "number of [mem] vectors before the sequence"})
    memory_init: ChoiceEnum(["normal", "identical"]) = field(  # type: ignore[valid-type]
        default="normal",
        metadata={
            "help": "start of the [mem] vectors: 'normal' draws each, like a token embedding in translation, from "
            "N(0, 1) in language models; 'identical' draws one and repeats it (only dropout or positions can then tell "
            "them apart)"
        },
    )
    memory_frozen: bool = field(
        default=False,
        metadata={"help": "[mem] vectors stay as they start: extra rows that learn nothing, the control for memory"},
    )


class MemoryTokens(nn.Module):
    """`tokens` vectors of C channels, N(0, scale^2) at the start, learned unless `frozen`.

    They are drawn from a generator of their own, seeded by the global seed: with the same seed, all other parameters
    start as they do without memory.
    """

    def __init__(self, tokens: int, channels: int, scale: float, init: str = "normal", frozen: bool = False) -> None:
        super().__init__()
        own = torch.Generator().manual_seed(torch.initial_seed() + 1)  # + 1: not the numbers of the embeddings
        start = scale * torch.randn(1 if init == "identical" else tokens, channels, generator=own, device="cpu")
        self.weight = nn.Parameter(start.expand(tokens, channels).clone(), requires_grad=not frozen)

    @classmethod
    def of(cls, cfg: Any, channels: int, scale: float) -> "MemoryTokens | None":
        """The memory that `MemoryOptions` ask for; None if it has no tokens."""
        if not cfg.memory_tokens:
            return None
        # a checkpoint may be older than the last option
        return cls(cfg.memory_tokens, channels, scale, cfg.memory_init, getattr(cfg, "memory_frozen", False))

    def forward(self, batch: int) -> Tensor:
        """Returns B x M x C."""
        return self.weight.expand(batch, -1, -1)
