"""Matrix products of awkward sizes. Widths such as Transformer-XL's 410 channels and heads of 41 keep a GPU from its
tensor cores' fast paths, which want multiples of 8: there, matrices are filled up with zeros, and results cut back.
"""

import torch.nn.functional as F
from torch import Tensor

MULTIPLE = 8


def filling(size: int, like: Tensor) -> int:
    """How many zeros to add to a dimension of `size` where `like` is."""
    return -size % MULTIPLE if like.is_cuda else 0


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """F.linear: x ... x I, weight O x I, bias O. Returns ... x O."""
    wide, high = filling(weight.size(1), x), filling(weight.size(0), x)
    if wide or high:
        x, weight = F.pad(x, (0, wide)), F.pad(weight, (0, wide, 0, high))
        bias = None if bias is None else F.pad(bias, (0, high))
    found = F.linear(x, weight, bias)
    return found[..., : found.size(-1) - high]
