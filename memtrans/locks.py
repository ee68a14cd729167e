"""A lock between processes, so that the same work is never done twice at once."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from memtrans.progress import say


@contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Hold the lock file `path`; a second process says in one line that it waits for `what`, then waits.

    The operating system frees the lock when its holder dies, however it dies.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say(f"another process is at work on {what}; waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
