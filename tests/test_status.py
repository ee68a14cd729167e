"""The states of runs, from what their folders and the queue say; on a real Slurm: `test_slurm`."""

import subprocess
import sys
from pathlib import Path

import pytest
from places import REPOSITORY

from memtrans import processes
from memtrans.cluster.slurm import QueuedJob
from memtrans.cluster.states import states
from memtrans.cluster.submissions import Submission, jobs_of, live
from memtrans.configuration import compose
from memtrans.corpora import Prepared
from memtrans.locks import locked
from memtrans.runs import Run, plan_run

MANIFEST = {"corpus": "toy", "fingerprint": "0" * 64, "source_lang": "de", "target_lang": "en"}
MANIFEST |= {"splits": {"train": {}, "valid": {}, "test": {}}}
LINE = (
    '2026-01-01 00:00:00 | INFO | train_inner | {"epoch": 3, "update": 2.5, "loss": "4.2", "wps": "1000", '
    '"wpb": "100", "num_updates": "50"}\n'
)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    overrides = [f"paths.{name}={tmp_path / name}" for name in ("runs", "results")]
    run = plan_run(compose([*overrides, "+train.max_update=200", "train.max_epoch=null"]), Prepared(tmp_path, MANIFEST))
    run.write()
    return run


def job(name: str, state: str = "PENDING", reason: str = "Priority", number: str = "7_0", index: int = 0) -> QueuedJob:
    return QueuedJob(number, index, state, name, reason)


def shown(run: Run, *queue: QueuedJob) -> tuple[str, str, str]:
    (state,) = states([run], queue)
    return state.word, state.job, state.text


def test_on_this_machine_the_folder_tells(run):
    assert shown(run) == ("new", "", "")
    run.log.write_text(LINE)
    at = "epoch 3, update 50, loss 4.2, 1,000 tokens/s"
    assert shown(run) == ("stopped", "", f"at {at}, the same command continues it")
    with locked(run.folder / "lock", "a run"):
        assert shown(run) == ("running", "", f"{at}, 15 s left")
    processes.note_failure(run.folder, "out of memory")
    processes.note_failure(run.folder, "what that led to")
    assert shown(run) == ("failed", "", f"out of memory (log: {run.log})")
    processes.forget_failure(run.folder)
    assert shown(run)[0] == "stopped"


def test_on_a_cluster_the_queue_tells(run):
    submission = Submission.create(run.runs, {"train": ["other", run.hash], "evaluate": ["other", run.hash]})
    train = job(submission.name("train"), number="7_1", index=1)
    evaluate = job(submission.name("evaluate"), reason="Dependency", number="8_1", index=1)
    assert shown(run, job("somebody's"), evaluate, train) == ("waiting", "7_1", "to train (Priority)")
    assert shown(run, evaluate) == ("waiting", "8_1", "to be scored (Dependency)")
    runs = job(submission.name("train"), "RUNNING", "None", "7_1", 1)
    assert shown(run, evaluate, runs) == ("running", "7_1", "starting")
    assert set(live(run.runs, [train])) == {run.hash}


def test_a_sweep_s_jobs_are_its_own(run):
    submission = Submission.create(run.runs, {"train": ["other", run.hash], "table": []})
    train, table = submission.name("train"), job(submission.name("table"), number="9")
    queue = [job(train, number="7_0"), job(train, number="7_1", index=1), table, job("somebody's", number="1")]
    assert jobs_of(run.runs, queue, None, set()) == ["7_0", "7_1", "9"]
    assert jobs_of(run.runs, queue, "demo", {run.hash}) == ["7_1"], "the table is for others too"
    assert jobs_of(run.runs, queue[1:], "demo", {run.hash}) == ["7_1", "9"]
    assert jobs_of(run.runs, queue, "demo", {"unknown"}) == []


def test_the_command_shows_all_runs_and_counts_them(run):
    command = [sys.executable, "-m", "scripts.status", f"paths.runs={run.runs}"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout == "MemTransformer 10, seed 1  new\n1 runs, 1 new\n"
