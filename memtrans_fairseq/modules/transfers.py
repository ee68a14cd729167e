"""Numbers that go from a GPU to the CPU while both go on working."""

import torch
from torch import Tensor


class OnItsWay:
    """Numbers that are being copied to the CPU."""

    def __init__(self, numbers: Tensor) -> None:
        self.numbers = numbers.to("cpu", non_blocking=True)
        self.event = torch.cuda.Event() if numbers.is_cuda else None
        if self.event:
            self.event.record()

    def arrived(self) -> Tensor:
        """Waits for them, and so for all that was asked of the same stream before."""
        if self.event:
            self.event.synchronize()
        return self.numbers
