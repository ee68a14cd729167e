"""The processes that train one run together: which of them this is, and how they are started on one host.

torchrun and the jobs of a cluster tell each its rank in the environment, and so does `start`. The first rank alone
locks, evaluates and records. No torch is imported here.
"""

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from memtrans.errors import UserError
from memtrans.stops import SIGNALS, STOPPED

GRACE_SECONDS = 10.0  # in which the others may end by themselves after one has
POLL_SECONDS = 0.1
VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
WATCHED = "MEMTRANS_WATCHED"  # set by `start`, which says itself which process died


@dataclass(frozen=True)
class Ranks:
    """This process among `count`; `local` is its number on its host."""

    rank: int = 0
    count: int = 1
    local: int = 0
    watched: bool = False

    @property
    def several(self) -> bool:
        return self.count > 1


def read_ranks(environment: Mapping[str, str]) -> Ranks:
    """As torchrun writes them; a process alone if there are none. Raises UserError if some are missing."""
    if environment.get("WORLD_SIZE", "1") == "1":
        return Ranks()
    if missing := [name for name in VARIABLES if name not in environment]:
        raise UserError(
            f"WORLD_SIZE={environment['WORLD_SIZE']}, but {', '.join(missing)} not set: start with torchrun"
        )
    try:
        rank, count, local = (int(environment[name]) for name in VARIABLES[:3])
    except ValueError:
        given = " ".join(f"{name}={environment[name]}" for name in VARIABLES[:3])
        raise UserError(f"{given}: expected whole numbers") from None
    return Ranks(rank, count, local, WATCHED in environment)


def start(count: int, command: Sequence[str]) -> int:
    """Run `command` as `count` ranks on this host and pass signals on to them. Returns 0, 75 or what one failed with.

    (Under torchrun all of them have 30 seconds after a signal, and how they ended is not passed on.)
    Raises UserError if one was killed.
    """
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": _free_port()}
    common = os.environ | meeting | {"WORLD_SIZE": str(count), WATCHED: "1"}
    ranks = [
        subprocess.Popen(command, env=common | {"RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in range(count)
    ]

    def pass_on(number: int, _: object) -> None:
        for process in ranks:
            process.send_signal(number)

    for number in SIGNALS:
        signal.signal(number, pass_on)
    try:
        first = _first_not_zero(ranks)
        _end(ranks)
    finally:
        for process in ranks:
            process.kill()
    if first is None:
        return 0
    code = first.returncode
    if code < 0 and -code not in SIGNALS:  # these it gets before it can answer, if any
        name = signal.Signals(-code).name
        why = "; was the memory full?" if name == "SIGKILL" else ""
        raise UserError(f"process {ranks.index(first)} of {count} was killed by {name}{why}")
    return STOPPED if code < 0 else code


def _free_port() -> str:
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def _first_not_zero(ranks: Sequence[subprocess.Popen]) -> subprocess.Popen | None:
    """Wait until one fails, or all have ended well. Of several that have failed meanwhile, one that was killed."""
    while True:
        codes = [process.poll() for process in ranks]
        if failed := [process for process in ranks if process.returncode]:
            return min(failed, key=lambda process: process.returncode)
        if None not in codes:
            return None
        time.sleep(POLL_SECONDS)


def _end(ranks: Sequence[subprocess.Popen]) -> None:
    """Let the others end, by force if need be: a process may wait for ever for one that has died."""
    end = time.monotonic() + GRACE_SECONDS
    for process in ranks:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, end - time.monotonic()))
        process.kill()
        process.wait()
