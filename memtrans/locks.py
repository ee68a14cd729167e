"""A lock between processes, so that the same work is never done twice at once.

It is `flock`, which also holds between hosts on NFS (Linux turns it into a lock of the server), and on Lustre where it
is mounted with it. The kernel frees it when its holder dies, however it dies, so there are no stale locks: a lock file
that lies there means nothing. (When a whole host dies, an NFS 4 server frees its locks as their lease ends: minutes.)

Where a file system has no locks, or locks that hold on one host only (`scripts.doctor` tells), work may be done twice.
What is shared stays right all the same, as it appears by renaming: see `files`.
"""

import errno
import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from memtrans.progress import say

WAITING = "another process is at work on {}; waiting for it"
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # what file systems without locks answer


@contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Hold the lock file `path`; a second process says in one line that it waits for `what`, then waits.

    On a file system without locks it says so in one line, and goes on.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:  # closing it frees the lock
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(WAITING.format(what))
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            say(f"{path.parent}: its file system has no locks ({error.strerror}); see that nothing runs twice at once")
        yield


def held(path: Path) -> bool:
    """Whether a process holds the lock file `path`, as far as its file system can tell."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # there is no such file, or no locks
        return False
    return False
