"""Where sentences lie among packed rows. Shape legend: N rows of all sentences, B sentences."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Spans(NamedTuple):
    """Sentence number b has the rows from bounds[b] up to bounds[b + 1]. All rows belong to one."""

    bounds: Tensor  # B + 1, int32
    sentences: Tensor  # N, int32: which one a row belongs to
    longest: int  # no sentence has more rows

    @classmethod
    def of(cls, lengths: Tensor, longest: int, sentences: Tensor | None = None) -> "Spans":
        """lengths B; sentences N, where it is known already."""
        if sentences is None:
            sentences = torch.repeat_interleave(torch.arange(lengths.size(0), device=lengths.device), lengths)
        return cls(F.pad(lengths.cumsum(0), (1, 0)).to(torch.int32), sentences.to(torch.int32), longest)
