"""Where the steps of a search run: on a GPU, a stream of its own."""

import functools
from collections.abc import Callable
from typing import Any

import torch

from .step import State

AT_ONCE = 3  # searches on a GPU that has room for them
ROOMY = 40 * 2**30  # bytes of such a GPU: with base models in float32, three batches of 12,000 tokens took 25 GiB


class Lane:
    """Runs steps one after another. `stream` is to be the current one; on a CPU it is None, which means nothing."""

    def __init__(self, device: torch.device) -> None:
        self.captures = device.type == "cuda"
        self.stream = torch.cuda.Stream(device) if self.captures else None
        self.last: Any = None  # the graph that was captured last: as long as one is there, its pool of memory is

    def follow(self) -> None:
        """What is asked of it from now on comes after what the current stream was asked."""
        if self.stream:
            self.stream.wait_stream(torch.cuda.current_stream())

    def precede(self) -> None:
        """What is asked of the current stream from now on comes after this, such as the use of memory that is freed."""
        if self.stream:
            torch.cuda.current_stream().wait_stream(self.stream)

    def run(self, step: Callable[[State], None], state: State) -> None:
        """One step. On a GPU, the first of some shapes runs as it is, which warms up; it is captured for the others."""
        if self.captures and state.runs:
            if state.graph is None:
                state.graph = self.last = self.capture(step, state)
            state.graph.replay()
        else:
            step(state)
        state.runs += 1

    def capture(self, step: Callable[[State], None], state: State) -> Any:
        """One step as a CUDA graph. `torch.cuda.graph` would give all free memory back to the GPU each time.

        All graphs of a lane share memory: they run one after another, and leave nothing in it.
        """
        graph = torch.cuda.CUDAGraph()
        pool = self.last.pool() if self.last else None
        graph.capture_begin(pool=pool, capture_error_mode="thread_local")
        try:
            step(state)
        finally:  # others will use the stream
            graph.capture_end()
        return graph


@functools.cache
def lanes(device: torch.device) -> list[Lane]:
    """Those of a device, the same for all searches: torch keeps free memory apart for each stream."""
    roomy = device.type == "cuda" and torch.cuda.get_device_properties(device).total_memory >= ROOMY
    return [Lane(device) for _ in range(AT_ONCE if roomy else 1)]
