"""The same work on many blocks, in several processes, with results in order and a bounded number of blocks at hand."""

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import cache
from threading import Thread
from typing import Any, TypeVar

from memtrans.errors import UserError

Block = TypeVar("Block")
Result = TypeVar("Result")

AHEAD = 2  # blocks for each process, being worked on or waiting: none is idle while the results are written

_make: Callable[[], Callable]  # of a process of ours


@contextmanager
def in_order(
    make: Callable[[], Callable[[Block], Result]], processes: int
) -> Iterator[Callable[[Iterator[Block]], Iterator[Result]]]:
    """Yield a `map` whose function is made by `make()`, once in each process; with one process, in this one.

    `make`, blocks and results must be picklable. The processes end with this one, also when it is killed. Raises
    UserError if one of them is.
    """
    if processes == 1:
        work = make()
        yield lambda blocks: map(work, blocks)
        return
    # spawn, not fork: a copy of this process would hold its memory and, half-way, the locks of its threads
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _begin, (make,)) as pool:

        def spread(blocks: Iterator[Block]) -> Iterator[Result]:
            waiting: deque[Future[Result]] = deque()
            for block in blocks:
                waiting.append(pool.submit(_do, block))
                if len(waiting) >= AHEAD * processes:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

        try:
            yield spread
        except BrokenProcessPool as error:
            raise UserError(
                "a process that encodes text was ended: is the memory full? Run it again, with fewer processes as in "
                "`taskset -c 0,1 python -m scripts.prepare ...`"
            ) from error


def _begin(make: Callable[[], Callable]) -> None:
    global _make
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, with which this one ends
    Thread(target=_end_with_parent, daemon=True).start()
    _make = cache(make)  # made with the first block, so that its failure is told as that of any work


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _do(block: Any) -> Any:
    return _make()(block)
