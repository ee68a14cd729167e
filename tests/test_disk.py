"""Disks and quotas that are full: one clear line, and the last good checkpoint stays."""

import errno
import os
import resource
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import memtrans_fairseq  # noqa: F401  (must come before fairseq)

import pytest
import torch
from fairseq import checkpoint_utils
from workers import differing, errors, finish, make_run, signal_when, start, state

from memtrans.stops import STOPPED


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A file system of 32 MB, in memory."""
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount: {mounted.stderr.decode().strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def limit_files() -> None:
    """No file of more than 100 kB: a process whose limit is reached gets EFBIG."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))


@pytest.mark.slow
def test_a_full_disk_stops_a_run_which_goes_on_when_there_is_room(tmp_path):
    data, disk = tmp_path / "data", tmp_path / "disk"
    disk.mkdir()
    whole = make_run("translation", data, tmp_path / "whole")
    finish(whole, "train")
    with small_disk(disk):
        run = make_run("translation", data, disk)
        moment = "Saved checkpoint"
        assert signal_when(run, moment, signal.SIGUSR1, start(run, "train")) == STOPPED
        last, before = run.checkpoints / "checkpoint_last.pt", state(run.checkpoints)
        kept = last.read_bytes()
        filler = disk / "filler"
        space = os.statvfs(disk)
        filler.write_bytes(b"0" * (space.f_bavail * space.f_bsize - 1_000_000))  # less than a checkpoint

        assert start(run, "train").wait(timeout=100) == 1
        (error,) = errors(run)
        assert error.startswith(f"error: cannot write {run.checkpoints}/checkpoint")
        assert error.endswith(": No space left on device; make room, then the same command continues")
        assert last.read_bytes() == kept
        assert state(run.checkpoints).keys() == before.keys()
        assert not list(run.checkpoints.glob("*.tmp"))

        filler.unlink()
        finish(run, "train")
        assert differing(whole.checkpoints, run.checkpoints) == []


@pytest.mark.slow
def test_a_signal_that_cannot_be_obeyed_is_a_failure(tmp_path):
    """Nothing may say that all is saved when it is not."""
    run = make_run("translation", tmp_path / "data", tmp_path, "train.save_interval_updates=0", "train.save_interval=9")
    process = start(run, "train", preexec_fn=limit_files)
    assert signal_when(run, "Start iterating", signal.SIGUSR1, process) == 1
    (error,) = errors(run)
    assert error.startswith(f"error: cannot write {run.checkpoints}/checkpoint_last.pt: File too large")
    assert not list(run.checkpoints.iterdir())


def test_a_quota_that_is_told_when_the_file_is_stored_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    """As network file systems do."""
    path = tmp_path / "checkpoint_last.pt"
    checkpoint_utils.torch_persistent_save({"update": torch.tensor(1)}, str(path))
    kept = path.read_bytes()

    def fsync(number: int) -> None:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="Disk quota exceeded") as failed:
        checkpoint_utils.torch_persistent_save({"update": torch.tensor(2)}, str(path))
    assert failed.value.errno == errno.EDQUOT
    assert failed.value.filename == str(path)
    assert path.read_bytes() == kept
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_named_which_fairseq_alone_does_not_do(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint_last.pt"
    content = {"weights": torch.randn(1000, 1000)}
    Path(f"{path}.tmp").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device") as failed:
        checkpoint_utils.torch_persistent_save(content, str(path))
    assert failed.value.filename == str(path)
    assert not list(tmp_path.iterdir())

    def limited() -> None:
        pid = os.fork()
        if not pid:
            limit_files()
            try:
                checkpoint_utils.torch_persistent_save.__wrapped__(content, str(path))
            except (OSError, RuntimeError) as error:
                os._exit(0 if getattr(error, "filename", None) is None else 1)
            os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

    limited()
    assert [left.name for left in tmp_path.iterdir()] == ["checkpoint_last.pt.tmp"]
