"""The log that trackers are made from: writers that are killed, updates that come twice, fairseq's own numbers."""

import json
import logging
import math
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import memtrans_fairseq  # noqa: F401  (must come before fairseq)

import pytest
from fairseq.logging.progress_bar import progress_bar
from places import REPOSITORY
from tracker_files import line, untrained_run

from memtrans.runs import Run
from memtrans.tracking import follow, live, metrics
from memtrans.tracking.live import FAIRSEQ, Metrics
from memtrans.tracking.trackers import score_name

WRITER = """
import sys
from pathlib import Path
from memtrans.tracking import metrics
for update in range(int(sys.argv[2]), 10**9):
    metrics.append(Path(sys.argv[1]), {"time": 0.0, "part": "train_inner", "update": update, "pad": "x" * 5000})
"""


@pytest.fixture
def run(tmp_path) -> Run:
    return untrained_run(tmp_path)


def test_a_writer_killed_at_any_moment_loses_no_line_but_its_last(tmp_path):
    log, after = tmp_path / "log.jsonl", 0
    for _ in range(3):
        command = [sys.executable, "-c", WRITER, str(log), str(after)]
        writer = subprocess.Popen(command, cwd=REPOSITORY)
        size = log.stat().st_size if log.exists() else 0
        while not log.exists() or log.stat().st_size < size + 200_000:
            assert writer.poll() is None
            time.sleep(0.001)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        updates = [found["update"] for found in metrics.read(log)]
        assert updates == list(range(len(updates)))
        after = len(updates)
    assert after > 100


def test_half_a_line_is_passed_over_and_does_not_spoil_the_next(tmp_path):
    log = tmp_path / "log.jsonl"
    metrics.append(log, line("valid", 1, loss=3.0))
    with log.open("a") as file:
        file.write('{"time": 0.0, "part": "valid", "upd')
    reader = metrics.Reader(log)
    assert [found["update"] for found in reader.new()] == [1]
    metrics.append(log, line("valid", 2, loss=2.0))
    assert [found["update"] for found in reader.new()] == [2]
    assert reader.new() == []


def test_of_updates_that_were_made_twice_the_last_stands(tmp_path):
    log = tmp_path / "log.jsonl"
    assert metrics.read(log) == []
    for part, update, loss in (("train_inner", 20, 5.0), ("train_inner", 40, 4.0), ("valid", 40, 4.5)):
        metrics.append(log, line(part, update, loss=loss))
    metrics.append(log, line("train_inner", 40, loss=3.9))
    metrics.append(log, line("score", 40, split="test", metric="bleu", value=20.0, evidence="a"))
    metrics.append(log, line("score", 40, split="test", metric="chrf", value=50.0, evidence="b"))
    found = [(one["part"], one["update"], one.get("loss", one.get("value"))) for one in metrics.read(log)]
    assert found == [
        ("train_inner", 20, 5.0),
        ("train_inner", 40, 3.9),
        ("valid", 40, 4.5),
        ("score", 40, 20.0),
        ("score", 40, 50.0),
    ]


def test_numbers_that_are_not_finite_are_json_too(tmp_path):
    log = tmp_path / "log.jsonl"
    metrics.append(log, line("train", 1, loss=math.nan, gnorm=math.inf, split="test"))
    assert json.loads(log.read_text(), parse_constant=pytest.fail)["gnorm"] == "inf"
    (found,) = metrics.read(log)
    assert math.isnan(found["loss"])
    assert metrics.numbers(found).keys() == {"loss", "gnorm"}
    assert found["split"] == "test"


def test_fairseq_s_numbers_by_our_names(run, capsys):
    handler, logger = Metrics(run), logging.getLogger(FAIRSEQ)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        bar = progress_bar(range(4), log_format="json", log_interval=1, epoch=3)
        for _ in bar:
            bar.log({"loss": 4.1234567, "wps": 1000.0, "num_updates": 20}, tag="train_inner", step=20)
            break
        bar.print({"loss": 4.5, "num_updates": 24}, tag="train", step=24)
        bar.print({"loss": float("nan"), "best_loss": 4.25, "num_updates": 24}, tag="valid", step=24)
        logger.warning("a word to the user")
    finally:
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)
    inner, train, valid = ({k: v for k, v in one.items() if k != "time"} for one in metrics.read(run.metrics))
    assert inner == {
        "part": "train_inner",
        "update": 20,
        "epoch": 3,
        "epochs": 2.25,
        "loss": 4.12346,
        "wps": 1000.0,
    }
    assert train == {"part": "train", "update": 24, "epoch": 3, "loss": 4.5}
    assert math.isnan(valid.pop("loss"))
    assert valid == {"part": "valid", "update": 24, "epoch": 3, "best_loss": 4.25}
    assert capsys.readouterr().out == ""


def test_a_log_that_cannot_be_written_is_said_once(run, capsys):
    run.metrics.mkdir()  # nobody can append to a folder, not even root
    handler = Metrics(run)
    handler.add("train", 1, loss=1.0)
    handler.add("train", 2, loss=1.0)
    assert capsys.readouterr().out == f"not logged to {run.metrics}: Is a directory\n"


def test_scores_have_short_names():
    bleu = line("score", 1, split="test", metric="bleu", evidence="nrefs:1|case:mixed; version:2.6.0")
    evidence = "per word; xl_eval: target 64, memory 640"
    assert score_name(bleu) == "test/bleu"
    assert score_name(bleu | {"metric": "perplexity", "evidence": evidence}) == "test/perplexity/xl_eval"


class Listener:
    name = "listener"

    def __init__(self, fails_at: int | None = None) -> None:
        self.updates: list[int] = []
        self.end: tuple[int, bool] | None = None
        self.fails_at = fails_at

    def log(self, line: metrics.Line) -> None:
        if line["update"] == self.fails_at:
            raise OSError("the service\nis gone")
        self.updates.append(line["update"])

    def finish(self, lines: list[metrics.Line], shown: dict[str, Path], well: bool) -> None:
        self.end = (len(lines), well)


def attempt(run: Run, listeners: dict[str, Listener], updates: list[int], word: bytes) -> None:
    """One attempt that logs some updates, then ends."""
    moments = iter([None, None, word])

    def ended() -> bytes | None:
        for update in updates:
            metrics.append(run.metrics, line("train_inner", update))
        updates.clear()
        return next(moments)

    follow.follow(run, listeners, ended)  # type: ignore[arg-type]


def test_every_attempt_is_told_the_whole_run_and_no_update_twice(run):
    first, second = Listener(), Listener()
    attempt(run, {"first": first}, [20, 40, 60], b"")
    assert (first.updates, first.end) == ([20, 40, 60], (3, False))
    attempt(run, {"second": second}, [40, 60, 80], follow.WELL)  # it was killed, and goes on from update 39
    assert (second.updates, second.end) == ([20, 40, 60, 80], (4, True))


def test_an_attempt_that_only_evaluates_tells_what_was_trained(run):
    attempt(run, {}, [], b"")
    for update in (20, 40):
        metrics.append(run.metrics, line("train_inner", update))
    listener = Listener()
    scored = iter([None, follow.WELL])

    def ended() -> bytes | None:
        metrics.append(run.metrics, line("score", 40, split="test", metric="bleu", value=1.0, evidence="a"))
        return next(scored)

    follow.follow(run, {"it": listener}, ended)
    assert listener.updates == [20, 40, 40, 40]
    assert listener.end == (3, True)


def test_a_tracker_that_fails_is_said_once_and_the_others_go_on(run, capsys):
    broken, whole = Listener(fails_at=40), Listener()
    attempt(run, {"W&B": broken, "TensorBoard": whole}, [20, 40, 60], follow.WELL)
    assert (broken.updates, broken.end) == ([20], None)
    assert (whole.updates, whole.end) == ([20, 40, 60], (3, True))
    assert capsys.readouterr().out == "not logged to W&B: the service is gone\n"


def test_a_follower_that_hangs_does_not_hold_up_the_run(run, capsys):
    follower = subprocess.Popen(["sleep", "60"], stdin=subprocess.PIPE)
    live._end(follower, follow.WELL, 0.1, run)
    assert follower.returncode == -signal.SIGKILL
    said = f"not all was tracked; python -m scripts.track {run.folder} does it again from the log\n"
    assert capsys.readouterr().out == said


@pytest.mark.parametrize("word", [follow.WELL, b""])
def test_the_follower_ends_with_its_run_and_not_before(run, word):
    """Signals go to all processes of a job; how the run takes them is its own affair. `b""`: it was killed."""
    replace(run, tracking=run.tracking | {"tensorboard": True}).write()
    metrics.append(run.metrics, line("train", 1, loss=1.0))
    command = [sys.executable, "-m", "memtrans.tracking", str(run.folder)]
    follower = subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    ignored = sum(1 << (number - 1) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2))
    status = Path(f"/proc/{follower.pid}/status")
    while int(re.findall(r"SigIgn:\s+(\w+)", status.read_text())[0], 16) & ignored != ignored:
        assert follower.poll() is None
        time.sleep(0.01)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        follower.send_signal(number)
    _, errors = follower.communicate(word, timeout=30)
    assert (follower.returncode, errors) == (0, b"")
    assert list(run.folder.glob("tensorboard/train/events.out.tfevents.*"))


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ([], "which tracker? Give wandb=offline, wandb=online or tensorboard=true"),
        (["wandb=of"], "wandb=of: expected wandb=offline|online"),
        (["wand=offline"], "wand=offline: not a setting; did you mean wandb?"),
        (["tensorboard=true"], "metrics.jsonl: nothing is logged there yet; train the run first"),
    ],
)
def test_track_says_what_is_wrong(run, arguments, error):
    command = [sys.executable, "-m", "scripts.track", str(run.folder), *arguments]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert error in done.stderr
    assert done.stderr.count("\n") == 1
    assert not Path(run.folder, "tensorboard").exists()
