"""The weights behind the golden values: a formula, so that any implementation can have them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

FORMULA = (
    "element number k (from 0, row-major) of a weight with offset o is 0.3 * sin(1 + o + k*k / 10), in float64; "
    "of a weight whose name ends in norm.weight it is 1 + 0.1 * sin(1 + o + k*k / 10)"
)


def fill(name_offset: int, shape: Sequence[int]) -> Tensor:
    """A float64 tensor of `shape`; the square makes matrices of full rank, which k alone would not."""
    k = torch.arange(math.prod(shape), dtype=torch.float64)
    return (0.3 * torch.sin(1 + name_offset + k * k / 10)).reshape(tuple(shape))


def weight(name: str, parameter: Mapping[str, Any]) -> Tensor:
    """The weight of one entry {"offset", "shape"} of the golden file's `parameters`."""
    values = fill(parameter["offset"], parameter["shape"])
    return 1 + values / 3 if name.endswith("norm.weight") else values
