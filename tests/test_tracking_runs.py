"""Trackers of real runs: made from the log afterwards, fed while it trains, lost in every way they can be."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hidden import hide
from places import REPOSITORY, Place, group, wait_for
from tracker_files import check_tensorboard, check_wandb, folders, only_run

from memtrans.tracking import metrics

pytestmark = pytest.mark.slow

TINY = tuple(f"corpus.sizes.{split}={pairs}" for split, pairs in (("train", 600), ("valid", 40), ("test", 40)))
TINY += ("corpus.vocabulary.size=200", "train.max_epoch=2", "train.save_interval_updates=5", "train.lr=1e-2")


@pytest.fixture(scope="module")
def untracked(tmp_path_factory) -> Place:
    """One run that was trained without a tracker."""
    folder = tmp_path_factory.mktemp("untracked")
    place = Place(TINY, folder / "data", folder)
    place.train()
    return place


@pytest.fixture
def place(untracked, tmp_path) -> Place:
    return Place(TINY, untracked.data, tmp_path)


def track(run: Path, *settings: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "scripts.track", str(run), *settings]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=100)


def test_trackers_are_made_from_the_log_of_a_finished_run(untracked):
    run = only_run(untracked)
    assert {path.name for path in run.iterdir()} >= {"metrics.jsonl"}
    assert not {path.name for path in run.iterdir()} & {"wandb", "tensorboard", "pictures", "tracking.txt"}
    for _ in range(2):  # the second time changes nothing of what is shown
        done = track(run, "wandb=offline", "tensorboard=true")
        assert done.returncode == 0, done.stderr
        lines = metrics.read(run / "metrics.jsonl")
        assert f"{len(lines)} lines of {run}/metrics.jsonl given to W&B\n" in done.stdout
        check_wandb(untracked, folders(run)[-1])
        check_tensorboard(run, lines)
    assert len(folders(run)) == 2


def children(parents: list[int], name: str) -> list[int]:
    """Processes of this name that those have started."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            before, _, after = stat.read_text().rpartition(")")
        except OSError:  # it has just ended
            continue
        if before.partition("(")[2] == name and int(after.split()[1]) in parents:
            found.append(int(stat.parent.name))
    return found


def test_a_run_outlives_the_service_of_wandb(untracked, place):
    """Killed while it trains. What is lost comes back from the log."""
    process = place.start("train", "tracking.wandb=offline", "tracking.tensorboard=true")
    wait_for(lambda: "begin training epoch 1" in place.log() and folders(only_run(place)), process)
    (service,) = children(group(process.pid), "wandb-core")
    os.kill(service, signal.SIGKILL)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err + place.log()
    assert place.log().count("not logged to W&B: ") == 1
    assert place.outcome() == untracked.outcome()
    run = only_run(place)
    check_tensorboard(run, metrics.read(run / "metrics.jsonl"))
    assert track(run, "wandb=offline").returncode == 0
    check_wandb(place, folders(run)[-1])


def test_a_run_needs_no_wandb(untracked, place):
    place.train("tracking.wandb=offline", **hide(place.folder, {"wandb": "wandb"}))
    assert place.log().count("not logged to W&B: No module named 'wandb'\n") == 1
    assert place.outcome() == untracked.outcome()
