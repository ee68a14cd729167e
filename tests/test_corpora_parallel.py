"""Work spread over processes: in order, no farther ahead than it must, and over when the one that spreads it is."""

import operator
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from memtrans.corpora.parallel import AHEAD, in_order
from memtrans.errors import UserError

KILLED = """
import itertools, os, sys, time
from functools import partial
from memtrans.corpora.parallel import in_order
if __name__ == "__main__":
    with in_order(partial(partial, os.system), 2) as work:
        for _ in work(itertools.repeat(f"echo $PPID; sleep 0.05")):
            pass
"""


def squared():
    return partial(pow, exp=2)


def ended():
    return partial(os.kill, os.getpid())


@pytest.mark.parametrize("processes", [1, 3])
def test_results_come_in_the_order_of_the_blocks(processes):
    with in_order(squared, processes) as work:
        assert list(work(iter(range(100)))) == [number**2 for number in range(100)]
        assert list(work(iter([]))) == []
        assert list(work(iter([7]))) == [49]


@pytest.mark.parametrize("processes", [1, 2])
def test_blocks_are_fetched_as_they_are_needed(processes):
    blocks = iter(range(1000))
    with in_order(squared, processes) as work:
        results = work(blocks)
        assert next(results) == 0
        assert next(blocks) <= AHEAD * processes
        list(results)


@pytest.mark.parametrize("processes", [1, 2])
def test_an_error_is_that_of_the_function(processes):
    with pytest.raises(ZeroDivisionError), in_order(partial(partial, operator.truediv, 1), processes) as work:
        list(work(iter([1, 0, 1])))


def failing():
    raise FileNotFoundError("no vocabulary")


def test_a_function_that_cannot_be_made_fails_as_itself():
    with pytest.raises(FileNotFoundError, match="no vocabulary"), in_order(failing, 2) as work:
        list(work(iter([1])))


def test_a_killed_process_is_one_clear_error():
    with pytest.raises(UserError, match="is the memory full") as failure, in_order(ended, 2) as work:
        list(work(iter([signal.SIGKILL])))
    assert "\n" not in str(failure.value)


@pytest.mark.slow
def test_the_processes_end_with_the_one_that_started_them(tmp_path):
    (tmp_path / "killed.py").write_text(KILLED)
    process = subprocess.Popen([sys.executable, tmp_path / "killed.py"], stdout=subprocess.PIPE, text=True)
    found = set()
    while len(found) < 2:
        found.add(int(process.stdout.readline()))
    process.kill()
    process.wait()
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in found) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [pid for pid in found if Path(f"/proc/{pid}").exists()] == []
