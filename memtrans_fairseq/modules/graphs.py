"""What a CUDA graph puts out lies where its next run will write: what is to last longer needs memory of its own."""

import torch
from torch import Tensor, nn


def copied(x: Tensor) -> Tensor:
    """The numbers of `x`, without its history, in memory of their own."""
    return x.detach().clone(memory_format=torch.contiguous_format)


def keep_gradients(model: nn.Module) -> None:
    """To be called before a graph runs again: what earlier batches of the same update left stays, to be added to.

    (After an optimiser's step there are no gradients, so that a look at the first that is trained is enough.)
    """
    if next(parameter for parameter in model.parameters() if parameter.requires_grad).grad is None:
        return
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.grad = copied(parameter.grad)
