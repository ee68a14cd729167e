"""The states of runs, from what their folders and the queue say; on a real Slurm: `test_slurm`."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from places import REPOSITORY

from memtrans import processes
from memtrans.cluster import job as job_module
from memtrans.cluster import slurm
from memtrans.cluster.settings import options
from memtrans.cluster.slurm import QueuedJob
from memtrans.cluster.states import commands, distinct, states
from memtrans.cluster.submissions import Submission, jobs_of, live, mend, submissions
from memtrans.configuration import compose
from memtrans.corpora import Prepared
from memtrans.errors import UserError
from memtrans.files import write_text
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


def test_what_is_being_ended_is_no_job_any_more_but_what_is_requeued_is(monkeypatch):
    lines = "1|N/A|COMPLETING|NONE|j|None\n2|N/A|COMPLETING|2026-01-02T15:10:27|j|None\n"  # of Slurm 22.05
    lines += "3_4|4|RUNNING|2126-01-01T00:00:00|j|None\n5|N/A|PENDING|N/A|j|DependencyNeverSatisfied\n"
    monkeypatch.setattr(slurm, "ask", lambda *_: lines)
    assert [(job.id, job.index) for job in slurm.queued()] == [("1", 0), ("3_4", 4)]


def test_a_table_that_failed_is_shown_until_there_is_a_later_one(run):
    first = Submission.create(run.runs, {"table": []})
    processes.note_failure(first.folder, "no room")
    line = f"a job that was to write the table failed: no room (log: {first.folder / 'log.txt'})"
    assert commands(run.runs, []) == [line]
    Submission.create(run.runs, {"table": []})
    assert commands(run.runs, []) == []


def test_what_has_ended_is_removed_by_a_later_submission(run):
    """But not what waits, what lacks a record, what failed to prepare, nor the last table."""

    def submitted(tasks: dict[str, list[str]], name: str) -> Submission:
        made = Submission.create(run.runs, tasks, name)
        (made.folder / "submitted").touch()
        (made.folder / "released").touch()
        return made

    unfinished = replace(run, identity=run.identity | {"seed": 2})
    unfinished.write()
    submitted({"train": [run.hash], "table": []}, "done")
    submitted({"prepare": []}, "prepared")
    submitted({"score": ["deleted"]}, "deleted")
    processes.note_failure(submitted({"table": []}, "failed-early").folder, "no room")
    submitted({"train": [run.hash, unfinished.hash]}, "lacks-a-record")
    waiting = job(submitted({"score": [run.hash]}, "waits").name("score"))
    processes.note_failure(submitted({"prepare": []}, "failed").folder, "no network")
    submitted({"train": [run.hash], "table": []}, "last")

    def left() -> set[str]:
        return {submission.folder.name for submission in submissions(run.runs)}

    before = left()
    assert mend(run.runs, [waiting]) == [waiting]
    assert before - left() == {"prepared", "deleted", "failed-early"}, "the run has no record yet"
    write_text(run.record_path, "{}")
    mend(run.runs, [waiting])
    assert left() == {"lacks-a-record", "waits", "failed", "last"}
    assert mend(run.runs, []) == []
    assert left() == {"lacks-a-record", "failed", "last"}
    assert run.folder.exists()


def test_names_that_repeat_say_which_run_it_is(run):
    other = replace(run, identity=run.identity | {"size": "base"})
    assert distinct([run]) == [run.name]
    assert distinct([run, other]) == [f"{run.name}, demo, {run.hash}", f"{run.name}, base, {other.hash}"]


def test_each_attempt_of_a_job_meets_at_another_port():
    ports = [job_module.port({"SLURM_JOB_ID": j, "SLURM_RESTART_COUNT": r}) for j in ("7", "8") for r in "012"]
    assert len(set(ports)) == 6
    assert job_module.port({"SLURM_JOB_ID": "7"}) == ports[0]
    assert job_module.port({"SLURM_JOB_ID": "67000000"}) < 32768


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ("launcher.gpus=3 launcher.nodes=2", "launcher.gpus=3 launcher.nodes=2: gpus are those of a run on all its no"),
        (
            "launcher.signal_seconds=86400",
            "launcher.signal_seconds=86400: that is not before the end of launcher.time_",
        ),
        ("launcher.signal_seconds=481 launcher.time_min=50", "expected 480 at most, or launcher.max_timeouts would no"),
        ("launcher.signal_seconds=17161", "with launcher.time_min=1440 expected 17160 at most"),
        ("launcher.prepare=there", "launcher.prepare=there: expected here or job"),
        ("launcher.cpus_per_task=0", "launcher.cpus_per_task=0: expected a whole number of at least 1"),
        ("launcher.gpus=true", "launcher.gpus=True: expected a whole number of at least 0"),
        ("launcher.accumulate=1.5", "launcher.accumulate=1.5: expected a whole number of at least 1"),
        ("launcher.max_timeouts=null", "launcher.max_timeouts=None: expected a whole number of at least 0"),
        ("launcher.mem_gb=4GB", "launcher.mem_gb=4GB: expected null or a whole number of at least 1"),
        ("launcher.small.time_min=0", "launcher.small.time_min=0: expected a whole number of at least 1"),
        ("launcher.partition=[a,b]", "launcher.partition=.*: expected null or a word"),
        ("launcher.setup=module", "launcher.setup=module: expected a list of shell lines"),
        ("launcher.additional=nice", "launcher.additional=nice: expected options of sbatch by name"),
        ("+launcher.additional.job_name=mine", "launcher.additional.job_name: jobs are submitted with one of their"),
        ("+launcher.additional.chdir=/", "launcher.additional.chdir: jobs are submitted with one of their own"),
        ("+launcher.additional.time=1", "launcher.additional.time: give launcher.time_min instead"),
        ("+launcher.additional.cpus-per-task=2", "launcher.additional.cpus-per-task: give launcher.cpus_per_task inst"),
        (
            "+launcher.additional.gres=gpu:2",
            "launcher.additional.gres: give launcher.gpus and launcher.gpu_type instea",
        ),
        ("launcher.table=1", "launcher.table=1: expected true or false"),
        ("jobs=2", "jobs=2: for launcher=local; launcher.at_once limits the jobs of a cluster"),
        ("launcher=local launcher.gpus=two", "launcher.gpus=two: expected null or a whole number of at least 1"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_anything_is_done(overrides, says):
    with pytest.raises(UserError, match=says) as error:
        compose(["launcher=slurm", *overrides.split()] if "launcher=" not in overrides else overrides.split())
    assert "\n" not in str(error.value)


def test_options_of_sbatch():
    def asked(*overrides: str, **more: Any) -> dict[str, Any]:
        return options(compose(["launcher=slurm", *overrides]).launcher, "a job", **more)

    typed = asked("launcher.gpu_type=a100", "launcher.gpus=4", gpus=4, nodes=2)
    assert (typed["gpus_per_node"], typed["ntasks_per_node"], typed["nodes"]) == ("a100:2", 2, 2)
    assert asked(gpus=1)["gpus_per_node"] == "1"
    assert "gpus_per_node" not in asked("launcher.gpu_type=a100", small=True)
    assert asked("+launcher.additional.gres=scratch:9")["additional_parameters"]["gres"] == "scratch:9"
    assert asked()["additional_parameters"]["requeue"] is True
    for less in (["launcher.additional.requeue=false"], ["+launcher.additional.no-requeue=true"]):
        assert "requeue" not in asked(*less)["additional_parameters"]
    small = asked("launcher.signal_seconds=600", "launcher.small.time_min=50", small=True)
    assert small["signal_delay_s"] == 480


def test_a_worker_that_cannot_be_started_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(job_module.signal, "getsignal", lambda number: lambda *_: None)
    monkeypatch.setattr(job_module.signal, "signal", lambda *_: None)
    said = job_module.supervise(["-m", "memtrans.worker"], tmp_path / "log.txt", {}, ["nosuch", "python"])
    assert said == "cannot start nosuch: No such file or directory"


def test_the_command_shows_all_runs_and_counts_them(run):
    command = [sys.executable, "-m", "scripts.status", f"paths.runs={run.runs}"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout == "MemTransformer 10, seed 1  new\n1 runs, 1 new\n"
    # one that cannot be read hides no other
    (run.runs / "broken").mkdir()
    (run.runs / "broken" / "run.json").touch()
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout == "MemTransformer 10, seed 1  new\n1 runs, 1 new\n"
    assert done.stderr.startswith(f"left out: {run.runs}/broken/run.json: cannot be read")


def test_a_folder_that_is_not_there_is_named(tmp_path):
    command = [sys.executable, "-m", "scripts.status", f"paths.runs={tmp_path / 'nowhere'}"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"0 runs\nthere is no folder {tmp_path / 'nowhere'} yet; ")


def test_without_slurm_a_multirun_says_so_and_leaves_nothing(tmp_path):
    paths = [f"paths.{name}={tmp_path / name}" for name in ("data", "runs", "results")]
    command = [sys.executable, "-m", "scripts.train", "-m", "launcher=slurm", "seed=1,2", *paths]
    environment = os.environ | {"PATH": str(tmp_path)}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == "error: no squeue here: launcher=slurm is for the login node of a Slurm cluster\n"
    assert not list(tmp_path.iterdir())


def test_a_record_that_cannot_be_read_hides_no_other_run(run):
    run.record_path.parent.mkdir(parents=True)
    run.record_path.write_text("{")
    word, _, text = shown(run)
    assert word == "failed"
    assert str(run.record_path) in text
