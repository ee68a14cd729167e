"""The learned [mem] vectors, and the options that say how many there are and how they start."""

from dataclasses import dataclass, field

import torch
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from torch import Tensor, nn


@dataclass
class MemoryOptions(FairseqDataclass):
    memory_tokens: int = field(default=10, metadata={"help": "number of [mem] vectors before the sequence"})
    memory_init: ChoiceEnum(["normal", "identical"]) = field(  # type: ignore[valid-type]
        default="normal",
        metadata={
            "help": "start of the [mem] vectors: 'normal' draws each like a token embedding; 'identical' draws one and "
            "repeats it (only dropout or positions can then tell them apart)"
        },
    )


class MemoryTokens(nn.Module):
    """`tokens` learned vectors of C channels, N(0, scale^2) at the start: by default as token embeddings, N(0, 1/C).

    They are drawn from a generator of their own, seeded by the global seed: with the same seed, all other parameters
    start as they do without memory.
    """

    def __init__(self, tokens: int, channels: int, init: str = "normal", scale: float | None = None) -> None:
        super().__init__()
        own = torch.Generator().manual_seed(torch.initial_seed() + 1)  # + 1: not the numbers of the embeddings
        start = torch.randn(1 if init == "identical" else tokens, channels, generator=own, device="cpu")
        start *= channels**-0.5 if scale is None else scale
        self.weight = nn.Parameter(start.expand(tokens, channels).clone())

    def forward(self, batch: int) -> Tensor:
        """Returns B x M x C."""
        return self.weight.expand(batch, -1, -1)
