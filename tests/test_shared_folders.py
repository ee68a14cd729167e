"""What several processes share: locks between them, files and folders that appear whole, what a killed one leaves."""

import errno
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from places import REPOSITORY

from memtrans import locks
from memtrans.files import FORGOTTEN, abandoned, adopt, new_folder, private
from memtrans.locks import held, locked

COUNTER = """
import sys
from pathlib import Path
from memtrans.locks import locked
count = Path(sys.argv[1])
for _ in range(int(sys.argv[2])):
    with locked(count.with_name("lock"), "the count"):
        count.write_text(str(int(count.read_text()) + 1))
"""
HOLDER = """
import sys, time
from pathlib import Path
from memtrans.locks import locked
with locked(Path(sys.argv[1]), "it"):
    print("held", flush=True)
    time.sleep(60)
"""
WRITER = """
import sys
from pathlib import Path
from memtrans.files import write_json
path, number = Path(sys.argv[1]), 0
while True:
    number += 1
    write_json(path, {"start": number, "pad": "x" * 200_000, "end": number})
"""
READER = """
import json, sys, time
from pathlib import Path
path, end, seen = Path(sys.argv[1]), time.monotonic() + 1.5, set()
while time.monotonic() < end:
    content = json.loads(path.read_text())
    assert content["start"] == content["end"], "half of one, half of another"
    seen.add(content["start"])
print(len(seen))
"""
UNFINISHED = """
import sys, time
from pathlib import Path
from memtrans.files import new_folder
with new_folder(Path(sys.argv[1])) as folder:
    (folder / "half").write_text("x")
    print("begun", flush=True)
    time.sleep(60)
"""


def start(program: str, *arguments: object) -> subprocess.Popen:
    command = [sys.executable, "-c", program, *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=REPOSITORY, stdout=pipe, stderr=pipe, text=True)


def test_many_processes_take_turns(tmp_path):
    (tmp_path / "count").write_text("0")
    processes = [start(COUNTER, tmp_path / "count", 40) for _ in range(5)]
    for process in processes:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
    assert (tmp_path / "count").read_text() == "200"


def test_a_lock_whose_holder_was_killed_is_free(tmp_path):
    holder = start(HOLDER, tmp_path / "lock")
    assert holder.stdout.readline() == "held\n"
    assert held(tmp_path / "lock")
    waiting = start(HOLDER, tmp_path / "lock")
    assert waiting.stderr.readline() == "another process is at work on it; waiting for it\n"
    holder.send_signal(signal.SIGKILL)
    assert waiting.stdout.readline() == "held\n"
    for process in (holder, waiting):
        process.kill()
        process.communicate()
    assert (tmp_path / "lock").exists()  # which means nothing:
    assert not held(tmp_path / "lock")
    with locked(tmp_path / "lock", "it"):
        pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_said_and_no_obstacle(tmp_path, monkeypatch, capsys, number):
    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(locks.fcntl, "flock", flock)
    with locked(tmp_path / "lock", "it"):
        pass
    said = f"{tmp_path}: its file system has no locks ({os.strerror(number)}); see that nothing runs twice at once\n"
    assert capsys.readouterr().err == said


def test_readers_never_see_half_a_file(tmp_path):
    path = tmp_path / "file.json"
    writer = start(WRITER, path)
    while not path.exists():
        assert writer.poll() is None
        time.sleep(0.001)
    readers = [start(READER, path) for _ in range(3)]
    ended = [reader.communicate(timeout=60) for reader in readers]
    writer.kill()
    writer.communicate()
    assert [reader.returncode for reader in readers] == [0, 0, 0], ended
    assert max(int(out) for out, _ in ended) > 3


def test_of_two_that_make_the_same_folder_the_first_stays(tmp_path):
    with new_folder(tmp_path / "made") as mine:
        (mine / "file").write_text("second")
        (tmp_path / "made").mkdir()
        (tmp_path / "made" / "file").write_text("first")
    assert (tmp_path / "made" / "file").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_an_error_of_the_work_is_not_taken_for_a_folder_that_is_there(tmp_path):
    with pytest.raises(FileExistsError), new_folder(tmp_path / "made") as mine:
        mine.mkdir()
    assert list(tmp_path.iterdir()) == []


def test_work_in_progress_is_left_alone_until_its_process_is_gone(tmp_path):
    worker = start(UNFINISHED, tmp_path / "made")
    assert worker.stdout.readline() == "begun\n"
    assert abandoned(tmp_path / "made") == []
    with new_folder(tmp_path / "made") as mine:  # as if there were no locks
        (mine / "whole").write_text("x")
    assert {path.name for path in tmp_path.iterdir()} == {"made", f"made@{socket.gethostname()}-{worker.pid}.tmp"}
    worker.kill()
    worker.communicate()
    assert [path.name for path in abandoned(tmp_path / "made")] == [f"made@{socket.gethostname()}-{worker.pid}.tmp"]


def test_what_another_host_left_is_given_up_after_a_day(tmp_path):
    theirs = tmp_path / "file.part@node-17.cluster-4711.tmp"
    theirs.write_text("half")
    assert abandoned(tmp_path / "file.part") == []
    os.utime(theirs, (time.time() - FORGOTTEN - 1,) * 2)
    assert abandoned(tmp_path / "file.part") == [theirs]
    assert abandoned(tmp_path / "file") == []
    assert adopt(tmp_path / "file.part") == private(tmp_path / "file.part")
    assert private(tmp_path / "file.part").read_text() == "half"
    assert not theirs.exists()


def test_what_was_left_under_the_public_name_comes_first(tmp_path):
    (tmp_path / "file.part").write_text("half")
    assert adopt(tmp_path / "file.part").read_text() == "half"
    assert not Path(tmp_path / "file.part").exists()
    assert not adopt(tmp_path / "other.part").exists()
