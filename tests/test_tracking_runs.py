"""Trackers of real runs: made from the log afterwards, fed while it trains, lost in every way they can be."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hidden import hide
from places import REPOSITORY, Place, group, wait_for
from tracker_files import check_tensorboard, check_wandb, drawn, folders, only_run
from workers import LANGUAGE, TRANSLATION

from memtrans.tracking import metrics

pytestmark = pytest.mark.slow

SWITCHED_ON = ("tracking.wandb=offline", "tracking.tensorboard=true")


@pytest.fixture(scope="module")
def untracked(tmp_path_factory) -> Place:
    """One run that was trained without a tracker."""
    folder = tmp_path_factory.mktemp("untracked")
    place = Place(TRANSLATION, folder / "data", folder)
    place.train()
    return place


@pytest.fixture
def place(untracked, tmp_path) -> Place:
    return Place(TRANSLATION, untracked.data, tmp_path)


def track(run: Path, *settings: str, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "scripts.track", str(run), *settings]
    return subprocess.run(
        command, cwd=REPOSITORY, env=os.environ | environment, capture_output=True, text=True, timeout=100
    )


def test_trackers_are_made_from_the_log_of_a_finished_run(untracked):
    run = only_run(untracked)
    assert {path.name for path in run.iterdir()} >= {"metrics.jsonl"}
    assert not {path.name for path in run.iterdir()} & {
        "wandb",
        "tensorboard",
        "pictures",
        "tracking.txt",
        "attention.json",
    }
    for _ in range(2):  # the second time changes nothing of what is shown
        done = track(run, "wandb=offline", "tensorboard=true")
        assert done.returncode == 0, done.stderr
        lines = metrics.read(run / "metrics.jsonl")
        assert f"{len(lines)} lines of {run}/metrics.jsonl given to W&B\n" in done.stdout
        check_wandb(untracked, folders(run)[-1])
        check_tensorboard(run, lines)
        assert set(drawn(run)) == {"learning_curve"}
    assert len(folders(run)) == 2


@pytest.mark.parametrize(
    ("settings", "parts"),
    [(TRANSLATION, ("encoder", "cross")), (LANGUAGE, ("decoder",))],
    ids=["translation", "language"],
)
def test_trackers_show_where_attention_goes(tmp_path, settings, parts):
    """While the run is followed, and again from its folder, where there is no torch."""
    place = Place(settings, tmp_path / "data", tmp_path)
    place.train(*SWITCHED_ON)
    run = only_run(place)
    lines = metrics.read(run / "metrics.jsonl")
    check_wandb(place, folders(run)[-1])
    check_tensorboard(run, lines)
    pictures = drawn(run)
    attention = {f"attention_{part}_{which}" for part in parts for which in (1, 2, "heads")}
    assert set(pictures) == {"learning_curve"} | attention
    for kind in ("wandb", "tensorboard", "pictures"):
        shutil.rmtree(run / kind)
    done = track(run, "wandb=offline", "tensorboard=true", **hide(tmp_path, {"torch": "torch", "fairseq": "fairseq"}))
    assert (done.returncode, done.stderr) == (0, "")
    assert drawn(run) == pictures
    check_wandb(place, folders(run)[-1])
    check_tensorboard(run, lines)


def test_attention_that_cannot_be_watched_costs_a_line(tmp_path):
    settings = [setting for setting in LANGUAGE if not setting.startswith(("variant=", "model."))]
    place = Place((*settings, "variant=transformer_lm"), tmp_path / "data", tmp_path)
    place.train(*SWITCHED_ON)
    said = [line for line in place.log().splitlines() if line.startswith("no attention maps were kept: ")]
    assert len(said) == 1
    assert "not watched" in said[0]
    run = only_run(place)
    check_wandb(place, folders(run)[-1])
    assert set(drawn(run)) == {"learning_curve"}


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
    process = place.start("train", *SWITCHED_ON)
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
