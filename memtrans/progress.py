"""What a user sees while a corpus is prepared: a line for each step, a bar (without a terminal: lines) for transfers.

All of it goes to standard error, so that standard output holds only results.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

PLAIN_SECONDS = 10.0  # between two plain progress lines


def say(line: str) -> None:
    """One line to standard error, as it stands (no markup, no wrapping)."""
    Console(stderr=True, soft_wrap=True).print(line, markup=False, highlight=False)


@contextmanager
def transfer(name: str, total: int, done: int) -> Iterator[Callable[[int], None]]:
    """Show a transfer of `total` bytes, `done` of them there already; yields a function that takes bytes arrived."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _plain(name, total, done)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        task = progress.add_task(name, total=total, completed=done)
        yield lambda arrived: progress.advance(task, arrived)


def _plain(name: str, total: int, done: int) -> Callable[[int], None]:
    start = last = time.monotonic()
    arrived = 0
    say(f"fetching {name}: {decimal(total)}" + (f", continuing at {decimal(done)}" if done else ""))

    def advance(count: int) -> None:
        nonlocal arrived, last
        arrived += count
        now = time.monotonic()
        if now - last < PLAIN_SECONDS:
            return
        last = now
        rate = arrived / (now - start)
        left = (total - done - arrived) / rate
        say(f"fetching {name}: {(done + arrived) / total:.0%}, {decimal(int(rate))}/s, {left:.0f} s left")

    return advance
