"""A training that is stopped, by whatever, and goes on is the training that was not stopped."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import memtrans_fairseq  # noqa: F401  (must come before fairseq)
from memtrans_fairseq.cli import main as fairseq_main
from memtrans_fairseq.preemption import stoppable

import pytest
import torch
from fairseq import checkpoint_utils
from places import REPOSITORY, group
from workers import differing, errors, finish, make_run, signal_when, start

from memtrans.runs import Run, train_arguments
from memtrans.stops import STOPPED, Stops


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("data")


def train(run: Run, folder: Path, *options: str, stop_after: int | None = None) -> None:
    """Train in this process; `stop_after` as many updates of this call, as if a signal had come."""
    made, begun = [], []
    vars(checkpoint_utils.save_checkpoint).pop("best", None)  # which fairseq keeps from one training to the next

    def asked() -> bool:
        made.append(1)
        return len(made) == stop_after

    with stoppable(asked, lambda: begun.append(1)):
        fairseq_main(["train", *train_arguments(run), "--save-dir", str(folder), *options])
    assert begun


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "options"),
    [("translation", ()), ("translation", ("+train.packed=true", "train.max_tokens=700")), ("language_modeling", ())],
    ids=["translation", "packed", "language_modeling"],
)
def test_a_stopped_training_goes_on_exactly(data, tmp_path, task, options):
    """With dropout, and with batches put together here or by a process beside, stopped in the middle of epochs."""
    run = make_run(task, data, tmp_path, "model.dropout=0.1", *options)
    train(run, tmp_path / "whole", "--num-workers=0")
    # the last stop is in the second epoch of the translations
    for workers, stops in (("0", (7, 1, 10)), ("1", (9,))):
        parts = tmp_path / workers
        for updates in stops:
            with pytest.raises(SystemExit) as stopped:
                train(run, parts, f"--num-workers={workers}", stop_after=updates)
            assert stopped.value.code == STOPPED
        train(run, parts, f"--num-workers={workers}")
        assert differing(tmp_path / "whole", parts) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "precision"),
    [
        ("translation", "--bf16"),
        ("translation", "--fp16"),
        ("translation", "--fp16 --fp16-no-flatten-grads --fp16-scale-window=4 --fp16-init-scale=2"),
        ("language_modeling", "--bf16"),
    ],
)
def test_a_stopped_training_in_half_precision_goes_on_exactly(data, tmp_path, monkeypatch, task, precision):
    """Its full-precision weights and its loss scale are not rounded, nor begun anew."""
    monkeypatch.setattr(torch.cuda, "current_device", lambda: None)  # the index of a CPU, which fairseq groups by
    run = make_run(task, data, tmp_path, "train.max_epoch=null", "train.max_update=8")
    # small batches: a CPU is slow with them
    options = ("--num-workers=0", *(["--max-tokens=200"] if task == "translation" else []), *precision.split())
    train(run, tmp_path / "whole", *options)
    for updates in (5, 1):
        with pytest.raises(SystemExit):
            train(run, tmp_path / "parts", *options, stop_after=updates)
    train(run, tmp_path / "parts", *options)
    assert differing(tmp_path / "whole", tmp_path / "parts") == []


@pytest.mark.slow
def test_a_stop_saves_the_very_update_and_changes_no_other_checkpoint(data, tmp_path):
    run = make_run("translation", data, tmp_path)
    with pytest.raises(SystemExit):
        train(run, tmp_path / "stopped", stop_after=8)
    train(run, tmp_path / "limited", "--max-update=8", "--disable-validation")
    assert differing(tmp_path / "stopped", tmp_path / "limited") == []
    assert {path.name for path in (tmp_path / "stopped").iterdir()} == {
        "checkpoint_1_5.pt",
        "checkpoint_best.pt",
        "checkpoint_last.pt",
    }


@pytest.mark.slow
def test_a_training_that_has_come_to_its_end_is_not_stopped(data, tmp_path):
    run = make_run("translation", data, tmp_path, "train.max_epoch=null", "train.max_update=3")
    train(run, tmp_path / "run", stop_after=3)


@pytest.mark.slow
def test_signals_and_kills_end_in_the_record_of_an_undisturbed_run(data, tmp_path):
    """Real signals, to all processes of a worker, as schedulers send them."""
    slow = ("protocol.beam=50", "protocol.batch_tokens=50")  # to translate, so that the signal comes meanwhile
    options = ("model.dropout=0.1", *slow)
    whole = make_run("translation", data, tmp_path / "whole", *options)
    run = make_run("translation", data, tmp_path / "stopped", *options)
    finish(whole)
    iterating, saved = "Start iterating over samples", "Saved checkpoint"
    for moment, number in [(iterating, signal.SIGUSR1), (iterating, signal.SIGTERM), (saved, signal.SIGUSR2)]:
        assert signal_when(run, moment, number, start(run, "train")) == STOPPED
        assert f"{number.name}: stopping after this update" in run.log.read_text()
    stopped = [int(update) for update in re.findall("stopped after update (\\d+)", run.log.read_text())]
    assert len(stopped) == 3
    assert stopped == sorted(stopped)
    assert resumed(run) == stopped[:2], "each goes on where the one before stopped"

    assert signal_when(run, saved, signal.SIGKILL, start(run, "train")) == -signal.SIGKILL
    last = max(int(update) for update in re.findall("@ (\\d+) updates, score", run.log.read_text()))
    assert signal_when(run, "begin training epoch 2", signal.SIGTERM, start(run, "train")) in (0, STOPPED)
    assert resumed(run)[-1] >= last, "nothing is lost of what was saved"
    finish(run, "train")

    evaluation = signal_when(run, "translating test", signal.SIGUSR1, start(run, "evaluate"))
    assert evaluation == STOPPED
    assert run.record() is None
    finish(run, "evaluate")
    ours, theirs = run.record(), whole.record()
    assert ours is not None
    assert theirs is not None
    assert (ours.scores, ours.updates, ours.tokens, ours.epochs) == (
        theirs.scores,
        theirs.updates,
        theirs.tokens,
        theirs.epochs,
    )
    assert differing(whole.checkpoints, run.checkpoints) == []
    assert errors(run) == []


@pytest.mark.slow
def test_a_signal_to_all_processes_spares_the_one_that_loads_data(data, tmp_path):
    """Where an epoch begins, the update waits for it."""
    run = make_run("translation", data, tmp_path, "train.save_interval_updates=0")
    program = "from memtrans import training, worker\ntraining._loading_flags = lambda: ['--num-workers', '1']\n"
    with run.log.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-u", "-c", program + "worker.main()", str(run.folder), "train"],
            cwd=REPOSITORY,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    assert signal_when(run, "begin training epoch 2", signal.SIGTERM, process) == STOPPED
    (update,) = re.findall("stopped after update (\\d+)", run.log.read_text())
    assert int(update) > 12
    assert not group(process.pid)


def resumed(run: Run) -> list[int]:
    return [int(update) for update in re.findall("Loaded checkpoint .* @ (\\d+) updates", run.log.read_text())]


@pytest.mark.slow
def test_the_halves_of_a_run_do_the_whole(data, tmp_path):
    run = make_run("translation", data, tmp_path, "train.max_epoch=null", "train.max_update=2")
    assert start(run, "evaluate").wait() == 1
    assert errors(run) == [
        f"error: {run.name} is not trained yet: python -m memtrans.worker {run.folder} train",
    ]
    finish(run, "train")
    assert run.record() is None
    finish(run, "evaluate")
    assert run.record() is not None
    finish(run)
    assert start(run, "everything").wait() == 1
    assert errors(run)[-1].endswith("everything: expected runs/<hash> [train|evaluate]")


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM])
def test_a_signal_ends_what_can_be_repeated_at_once_and_lets_an_update_finish(number, capfd):
    before = {each: signal.getsignal(each) for each in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM)}
    try:
        at_once, later = Stops(), Stops()
        at_once.watch()
        with pytest.raises(SystemExit) as stopped:
            os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)  # once more, while it is being obeyed
        assert stopped.value.code == STOPPED == 75
        later.watch()
        later.wait()
        os.kill(os.getpid(), number)
        assert later.asked
        with pytest.raises(SystemExit):
            later.resume()
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
    name = signal.Signals(number).name
    assert capfd.readouterr().err == f"{name}: stopping\n{name}: stopping after this update\n"


UPDATE = """
import subprocess, sys, time
from memtrans.stops import Stops

stops = Stops()
stops.watch()
stops.wait()
compiler = subprocess.Popen([sys.executable, "-c", "print('begun', flush=True); input()"], stdin=subprocess.PIPE)
while not stops.asked:
    time.sleep(0.01)
compiler.communicate(b"done")
print(compiler.returncode, flush=True)
stops.resume()
"""


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM])
def test_a_signal_to_all_processes_spares_what_an_update_has_started(number):
    """Such as a compiler, without which the update would fail."""
    command = [sys.executable, "-c", UPDATE]
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    os.killpg(process.pid, number)
    out, _ = process.communicate(timeout=30)
    assert (out, process.returncode) == ("0\n", STOPPED)


SWALLOWED = """
import os, signal, time
from memtrans.stops import Stops

class Last:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGUSR1)

def compute(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass

stops = Stops()
stops.watch()
try:
    Last()
    print("goes on", flush=True)
    compute(20)
    print("never stopped", flush=True)
finally:
    compute(2)
    stops.ignore()
    print("tidied up", flush=True)
"""


def test_a_signal_is_obeyed_wherever_it_finds_the_process():
    """Python ignores what is raised in a finaliser; and who is ending is not disturbed."""
    done = subprocess.run([sys.executable, "-c", SWALLOWED], cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.returncode) == ("goes on\ntidied up\n", STOPPED)
    assert "Exception ignored in" in done.stderr


def test_nothing_stays_changed_in_fairseq_after_a_training():
    from fairseq_cli import train as fairseq_train

    before: tuple[Callable, Callable] = fairseq_train.train, fairseq_train.validate_and_save
    with stoppable(lambda: False, lambda: None):
        assert fairseq_train.train is not before[0]
    assert (fairseq_train.train, fairseq_train.validate_and_save) == before
