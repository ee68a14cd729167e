"""Sweeps on a real Slurm, started here: taken away, broken, cancelled, repeated; nothing is lost or done twice."""

import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from omegaconf import DictConfig
from places import LASTING, REPOSITORY, Place, kill_group, wait_for
from slurm import Slurm, missing, wait_until

from memtrans.cluster.submit import submit
from memtrans.configuration import compose
from memtrans.errors import UserError
from memtrans.runlog import read_progress
from memtrans.runs import Run
from memtrans.sweeping import plan_runs

pytestmark = pytest.mark.slow

TINY = ("corpus=demo_lm", "size=lm_demo", "protocol=lm", "train.tokens_per_sample=16", "train.batch_size=4")
TINY += tuple(f"corpus.sizes.{split}={documents}" for split, documents in (("train", 12), ("valid", 2), ("test", 2)))
TINY += ("train.max_update=240", "train.warmup_updates=5", "train.save_interval_updates=40", "model.dropout=0.1")
TINY += ("protocol.extra_splits=[]",)
CLUSTER = ("launcher=slurm", "launcher.gpus=0", "launcher.cpus_per_task=1", "launcher.time_min=30")
SWEEP = ("sweep=demo_lm", *CLUSTER)


@pytest.fixture(scope="module")
def slurm(tmp_path_factory) -> Iterator[Slurm]:
    if reason := missing():
        assert "CI" not in os.environ, reason
        pytest.skip(reason)
    cluster = Slurm(tmp_path_factory.mktemp("slurm"))
    try:
        cluster.start()
        with pytest.MonkeyPatch.context() as patch:
            for name, value in (cluster.environment | {"OMP_NUM_THREADS": "1"}).items():
                patch.setenv(name, value)
            patch.chdir(REPOSITORY)
            yield cluster
    finally:
        cluster.stop()


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """The prepared corpus."""
    folder = tmp_path_factory.mktemp("prepared")
    done = Place(TINY, folder, folder).run("prepare")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def place(slurm, data, tmp_path) -> Iterator[Place]:
    """A place of its own, whose jobs end with the test."""
    place = Place(TINY, data, tmp_path / "place")
    yield place
    place.run("cancel", "launcher=slurm")
    wait_until(lambda: not queue(slurm), 120, "the end of all jobs")


def status(place: Place, *overrides: str) -> dict[str, str]:
    """What is shown of each run, by its name."""
    done = place.run("status", *overrides)
    assert done.returncode == 0, done.stderr
    rows = (line.partition("  ") for line in done.stdout.splitlines()[:-1])
    return {name: " ".join(text.split()) for name, _, text in rows}


def lasting(place: Place) -> dict[str, dict]:
    return {name: {key: record.get(key) for key in LASTING} for name, record in place.records().items()}


def columns(place: Place) -> list[list[str]]:
    """The table without what depends on the machine: its last three columns."""
    text = (place.folder / "results" / "TABLES.md").read_text()
    return [line.split("|")[:-4] for line in text.splitlines() if line.startswith("| ")]


def attempts(place: Place) -> dict[str, int]:
    """How often each run's training began at its first update."""
    return {log.parent.name: log.read_text().count("No existing checkpoint found") for log in place.logs()}


def at_update(place: Place, name: str, least: int) -> bool:
    """Whether the run of this name, in its present attempt, has come to an update: by its log, many times a second."""
    (run,) = (run for path in place.folder.glob("runs/*/run.json") if (run := Run.read(path.parent)).name == name)
    progress = read_progress(run.log, run.identity["train"])
    return progress is not None and (progress.update or 0) >= least


def task(place: Place, name: str) -> str:
    """The number of the job that a run is in."""
    return status(place)[name].split()[1]


def test_whatever_happens_on_the_way_the_table_is_the_local_one(slurm, place, tmp_path):
    local = Place(TINY, place.data, tmp_path / "local")
    done = local.run("sweep", "sweep=demo_lm", "jobs=2")
    assert len(local.records()) == 3, done.stderr
    names = ("Transformer, seed 1", "Transformer-XL, cache 32, seed 1", "RMT 10, BPTT 1, seed 1")
    assert set(status(place, *SWEEP).values()) == {"new"}

    path, second = stopping_at_the_second_sbatch(tmp_path)
    killed = place.start("sweep", *SWEEP, PATH=path)
    wait_for(second.exists, killed)
    kill_group(killed)
    assert killed.returncode == -signal.SIGKILL
    assert [line.split("|")[1] for line in queue(slurm)] == ["PENDING"] * 3, "nothing runs before all is submitted"
    done = place.run("sweep", *SWEEP)
    assert done.returncode == 0, done.stderr
    assert "3 runs: 0 done, 0 with a job already\n3 submitted: jobs " in done.stderr
    assert len(queue(slurm)) == 3 + 3 + 1, "what the killed command left is gone"
    done = place.run("sweep", *SWEEP)
    assert (done.returncode, done.stderr) == (0, "3 runs: 0 done, 3 with a job already\n")

    wait_until(lambda: at_update(place, names[2], 20), 120, "the third row to train")
    slurm.stop_one("slurmctld")
    slurm.start_one("slurmctld")
    # requeued, and the node drained meanwhile
    slurm.ask("scontrol", "update", f"nodename={slurm.node}", "state=drain", "reason=test")
    slurm.ask("scontrol", "requeue", task(place, names[2]))
    wait_until(lambda: "DRAINED" in status(place)[names[2]], 120, "the third row to wait for the node")
    waiting = status(place)[names[2]]
    assert waiting.startswith("waiting ")
    assert "to train (" in waiting
    assert ", at epoch " in waiting
    assert "update 240" not in waiting, "it was taken away in the middle"

    done = place.run("sweep", *SWEEP, **slurm.unreachable())
    assert done.returncode == 1
    assert done.stderr.startswith("error: Slurm does not do `squeue`: ")
    assert done.stderr.count("\n") == 1
    done = place.run("status", **slurm.unreachable())
    assert done.stderr.startswith("jobs are not shown: Slurm does not do `squeue`: ")
    slurm.ask("scontrol", "update", f"nodename={slurm.node}", "state=resume")

    wait_until(lambda: not queue(slurm), 120, "the end of all jobs")
    assert lasting(place) == lasting(local)
    assert columns(place) == columns(local)
    assert set(attempts(place).values()) == {1}, "continued, not begun anew"
    assert all(text.startswith("done perplexity ") for text in status(place, *SWEEP).values())
    done = place.run("sweep", *SWEEP)
    assert "| RMT 10, BPTT 1" in done.stdout
    assert not queue(slurm)


def stopping_at_the_second_sbatch(folder: Path) -> tuple[str, Path]:
    """A PATH on which the second `sbatch` does not return, and the file that tells that it was called."""
    first, second, wrapper = folder / "first", folder / "second", folder / "bin" / "sbatch"
    wrapper.parent.mkdir()
    wait = f'if [ -e "{first}" ]; then touch "{second}"; exec sleep 600; fi'
    wrapper.write_text(f'#!/bin/sh\n{wait}\ntouch "{first}"\nexec {shutil.which("sbatch")} "$@"\n')
    wrapper.chmod(0o755)
    return f"{wrapper.parent}{os.pathsep}{os.environ['PATH']}", second


def running(slurm: Slurm) -> bool:
    return any("PENDING" not in line for line in queue(slurm))


def queue(slurm: Slurm) -> list[str]:
    return slurm.ask("squeue", "--noheader", "--array", "--format=%i|%T").splitlines()


def composed(place: Place, *overrides: str) -> tuple[Run, DictConfig]:
    """A run and its launcher's settings; of two values of the same key the last stands."""
    last = {o.partition("=")[0]: o for o in (*place.overrides, *CLUSTER, *overrides)}
    config = compose(list(last.values()))
    (run,) = plan_runs([config])
    return run, config.launcher


def test_of_several_runs_each_has_its_own_fate(slurm, place):
    """One has a setting that its worker refuses, one is cancelled, one meets its time limit twice, one just ends."""
    # its minute ends 30 s after the start, and then once more
    limits = ("launcher.time_min=1", "launcher.signal_seconds=30", "launcher.max_timeouts=1")
    runs, launcher = {}, None
    for name, own in {
        "broken": ("variant=mem_transformer_lm", "model.memory_init=zeros"),
        "cancelled": ("variant=transformer_xl", "train.max_update=9000"),
        "short": ("variant=transformer_xl", "train.max_update=20"),
        "long": ("variant=transformer_xl", "train.max_update=50000", *limits),
    }.items():
        runs[name], launcher = composed(place, *own, f"label={name}")
    submit([run for name, run in runs.items() if name != "long"], composed(place, "variant=transformer_xl")[1])
    submit([runs["long"]], launcher)
    wait_until(lambda: at_update(place, "cancelled, seed 1", 20), 120, "a run to train")
    slurm.ask("scancel", task(place, "cancelled, seed 1"))
    wait_until(lambda: not queue(slurm), 180, "the end of all jobs")

    found = status(place)
    assert found["broken, seed 1"].startswith(
        "failed worker.py: error: argument --memory-init: invalid choice: 'zeros'"
    )
    assert found["cancelled, seed 1"].startswith("stopped at epoch ")
    assert found["long, seed 1"].startswith("stopped at epoch ")
    assert found["long, seed 1"].endswith(", the same command continues it")
    assert found["short, seed 1"].startswith("done perplexity ")
    log = runs["long"].log.read_text()
    # on a busy machine an attempt may not have begun to train by then, or not even to listen
    stops = [line for line in log.splitlines() if "stopp" in line or "fairseq_cli.train | {" in line[:60]]
    assert log.count("SIGUSR2: stopping") in (1, 2), f"one attempt after the first time limit, no third: {stops}"
    training = log.count("SIGUSR2: stopping after this update")
    assert training
    assert attempts(place)[runs["long"].hash] <= 3 - training, "what was trained is continued"
    assert (place.folder / "results" / "TABLES.md").exists(), "the table is written whatever happened"

    submit(list(runs.values()), launcher)
    assert len(queue(slurm)) == 3 + 3 + 1, "all but the one that is done"
    wait_until(lambda: running(slurm), 30, "a job to start")
    done = place.run("cancel", *CLUSTER)
    assert done.stdout.startswith("cancelled: ")
    assert done.stdout.count(",") == 6
    wait_until(lambda: not queue(slurm), 120, "the end of all jobs")
    assert place.run("cancel", *CLUSTER).stdout == "cancelled: nothing, as there are no jobs\n"


def test_one_that_is_preempted_with_a_time_of_grace_asks_for_another_attempt(slurm, place):
    name = "Transformer-XL, seed 1"
    done = place.run("train", "variant=transformer_xl", *CLUSTER, "train.max_update=50000", SBATCH_JOB_NAME="mine")
    assert done.returncode == 0, done.stderr
    wait_until(lambda: at_update(place, name, 20), 120, "the run to train")
    slurm.ask("sbatch", "--partition=urgent", "--ntasks=2", "--output=/dev/null", "--wrap=sleep 20")
    wait_until(lambda: status(place)[name].startswith("waiting"), 50, "another attempt, before its grace ends")
    assert " to train (" in status(place)[name]
    job = task(place, name)
    assert "Restarts=1 " in slurm.ask("scontrol", "--oneliner", "show", "job", job)
    (log,) = place.logs()
    assert "SIGTERM: stopping after this update" in log.read_text()
    assert len([line for line in queue(slurm) if "PENDING" in line]) == 3, "what comes after it still waits for it"
    # it need not wait for two minutes
    slurm.ask("scontrol", "update", f"jobid={job}", "starttime=now")
    wait_until(lambda: "Loaded checkpoint" in log.read_text(), 90, "the other attempt")
    slurm.ask("scancel", job)
    wait_until(lambda: not queue(slurm), 60, "its end")
    assert status(place)[name].startswith("stopped at epoch ")


def test_a_job_that_may_not_be_requeued_says_so(slurm, place):
    run, launcher = composed(place, "variant=transformer_xl", "train.max_update=50000", "~launcher.additional.requeue")
    submit([run], launcher)
    wait_until(lambda: at_update(place, run.name, 20), 120, "the run to train")
    slurm.ask("scancel", "--signal=USR2", task(place, run.name))
    wait_until(lambda: not queue(slurm), 60, "its end")
    assert status(place)[run.name].startswith("failed all is saved, but Slurm does not requeue the job (")


def test_several_processes_are_tasks_of_one_job_that_dies_as_a_whole(slurm, place, monkeypatch):
    """The node says that it has two GPUs, for which the processes look in vain: they train on its CPU."""
    python = f"launcher.python='env WITHIN=1 {sys.executable}'"
    overrides = ("variant=transformer_xl", *CLUSTER, "launcher.gpus=2", "train.max_update=2000", python)
    overrides = tuple(o for o in overrides if o != "launcher.gpus=0")
    done = place.run("train", *overrides)
    assert done.returncode == 0, done.stderr
    wait_until(lambda: not queue(slurm), 120, "the end of the job")
    (text,) = status(place).values()
    assert text.startswith("failed torch "), text
    assert " sees no GPU on " in text
    monkeypatch.setenv("MEMTRANS_WITHOUT_GPU", "1")
    others = {"RANK": "1", "WORLD_SIZE": "3", "MASTER_ADDR": "nowhere", "MASTER_PORT": "1"}
    done = place.run("train", *overrides, **others)
    assert done.returncode == 0, done.stderr
    wait_until(lambda: at_update(place, "Transformer-XL, seed 1", 60), 120, "the run to train")
    ranks = workers(place)
    assert sorted(ranks) == ["0", "1"]
    os.kill(ranks["1"], signal.SIGKILL)
    wait_until(lambda: not queue(slurm), 120, "the end of the job")
    (text,) = status(place).values()
    assert text.startswith("failed killed by SIGKILL; was the memory full? (process 1)")
    assert not workers(place)

    done = place.run("train", *overrides)
    wait_until(lambda: at_update(place, "Transformer-XL, seed 1", 200), 120, "the run to train")
    slurm.ask("scancel", "--signal=USR2", task(place, "Transformer-XL, seed 1"))
    wait_until(lambda: status(place)["Transformer-XL, seed 1"].startswith("waiting"), 120, "another attempt")
    wait_until(lambda: workers(place), 120, "its processes")
    assert place.run("cancel", *CLUSTER).returncode == 0
    wait_until(lambda: not queue(slurm), 120, "the end of the job")
    assert sum(attempts(place).values()) == 1


def workers(place: Place) -> dict[str, int]:
    """The processes that train the runs of a place, by their ranks."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_text().split("\0")
            variables = dict(line.partition("=")[::2] for line in (path.parent / "environ").read_text().split("\0"))
        except OSError:  # it has just ended
            continue
        if not Path(words[0]).name.startswith("python"):  # it is yet to become one, as `env` is
            continue
        if {"memtrans.worker", "memtrans.cluster.worker"} & set(words) and any(
            word.startswith(str(place.folder)) for word in words
        ):
            assert "WITHIN" in variables, "started by launcher.python"
            found[variables.get("RANK", "0")] = int(path.parent.name)
    return found


def test_hydra_s_multirun_makes_a_job_of_each(slurm, place):
    overrides = ("variant=transformer_xl,transformer_lm", "train.max_update=20", *CLUSTER)
    done = place.run("train", "-m", *overrides, "launcher.prepare=job")
    assert (done.returncode, done.stderr) == (1, "error: launcher.prepare=job: not with -m, but with scripts.sweep\n")
    assert not queue(slurm)
    done = place.run("train", "-m", *overrides)
    assert done.returncode == 0, done.stderr
    assert sorted(record["variant"] for record in place.records().values()) == ["transformer_lm", "transformer_xl"]
    assert len(list(place.folder.glob("runs/slurm/multirun/*/*_submitted.pkl"))) == 2


def test_a_job_can_prepare_and_submit(slurm, tmp_path):
    place = Place(TINY, tmp_path / "data", tmp_path)
    done = place.run("sweep", *SWEEP, "launcher.prepare=job")
    assert (done.returncode, done.stderr.count("\n")) == (0, 1), done.stderr
    assert "will prepare the corpus and submit the runs (log: " in done.stderr
    again = place.run("sweep", *SWEEP, "launcher.prepare=job")
    assert again.stderr.endswith(" is at it already\n")
    wait_until(lambda: len(queue(slurm)) >= 7, 120, "the jobs that it submits")
    assert set(status(place, *SWEEP)) >= {"Transformer, seed 1", "RMT 10, BPTT 1, seed 1"}
    assert place.run("cancel", *SWEEP).stdout.startswith("cancelled: ")
    wait_until(lambda: not queue(slurm), 120, "the end of all jobs")


def test_a_job_can_prepare_and_submit_a_single_run(slurm, tmp_path):
    place = Place(TINY, tmp_path / "data", tmp_path)
    done = place.run("train", "variant=transformer_xl", *CLUSTER, "launcher.prepare=job")
    assert (done.returncode, done.stderr.count("\n")) == (0, 1), done.stderr
    assert "will prepare the corpus and submit the runs (log: " in done.stderr
    wait_until(lambda: "Transformer-XL, seed 1" in status(place), 120, "the run that it submits")
    assert place.run("cancel", *CLUSTER).stdout.startswith("cancelled: ")
    wait_until(lambda: not queue(slurm), 120, "the end of all jobs")


def test_what_slurm_refuses_is_told_in_one_line_and_leaves_nothing(slurm, place):
    # the last of the jobs is the one refused
    run, launcher = composed(place, "variant=transformer_xl", "launcher.small.partition=nowhere")
    with pytest.raises(
        UserError, match="Slurm refuses the jobs: sbatch: error: .*nowhere.*; nothing was submitted"
    ) as e:
        submit([run], launcher)
    assert "\n" not in str(e.value)
    wait_until(lambda: not queue(slurm), 30, "an empty queue")
    assert not list(place.folder.glob("runs/slurm/*/"))


def test_only_what_the_command_itself_has_held_is_released(slurm, place):
    run, launcher = composed(place, "variant=transformer_xl", "launcher.table=false", "launcher.at_once=1")
    slurm.ask("scontrol", "update", f"nodename={slurm.node}", "state=drain", "reason=test")
    try:
        submit([run], launcher)
        assert len(queue(slurm)) == 2, "no table"
        job = task(place, run.name)
        slurm.ask("scontrol", "uhold", job)
        submit([run], launcher)
        assert "JobHeldUser" in status(place)[run.name]
        (mark,) = place.folder.glob("runs/slurm/*/released")
        mark.unlink()  # as if the command had been killed before it released
        submit([run], launcher)
        assert "JobHeld" not in status(place)[run.name]
        assert mark.exists()
        slurm.ask("scontrol", "hold", job)  # root is an administrator
        mark.unlink()
        submit([run], launcher)
        assert "JobHeldAdmin" in status(place)[run.name]
    finally:
        slurm.ask("scontrol", "update", f"nodename={slurm.node}", "state=resume")


def test_without_slurm_it_says_so(place, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    run, launcher = composed(place, "variant=transformer_xl")
    with pytest.raises(UserError, match="no squeue here: launcher=slurm is for the login node of a Slurm cluster"):
        submit([run], launcher)
