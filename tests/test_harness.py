"""The harness as a user meets it: real commands, real training (seconds), real kills."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import memtrans_fairseq  # noqa: F401  (must come before fairseq)

import pytest
import torch
from fairseq import checkpoint_utils
from omegaconf import OmegaConf
from places import REPOSITORY, Place, group, kill_group, wait_for
from tracker_files import check_tensorboard, check_wandb, folders
from workers import TRANSLATION

from memtrans import evaluation
from memtrans.configuration import CONFIGS, compose
from memtrans.curves import Curve
from memtrans.sweeping import plan_runs, row_overrides
from memtrans.sweeps_spec import load_sweeps
from memtrans.tracking import metrics

pytestmark = pytest.mark.slow

TINY = (*TRANSLATION, "train.max_epoch=3")


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Place:
    """One run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    place = Place(TINY, folder / "data", folder)
    place.train()
    return place


@pytest.fixture
def place(whole, tmp_path) -> Place:
    """A place of its own, with the prepared corpus of `whole`."""
    return Place(TINY, whole.data, tmp_path)


# one run


def test_the_second_call_does_nothing_and_prints_the_result(whole):
    before = whole.files()
    start = time.monotonic()
    done = whole.run("train")
    seconds = time.monotonic() - start
    assert done.returncode == 0
    assert done.stderr == ""
    ((name, record),) = whole.records().items()
    assert done.stdout.startswith(f"MemTransformer 10, seed 1: {whole.folder}/results/records/{name}.json\n")
    assert f"  test: bleu {record['scores'][0]['value']:.2f} ({record['scores'][0]['signature']})\n" in done.stdout
    assert whole.files() == before
    assert seconds < 3


def test_a_record_says_what_was_trained(whole):
    ((_, record),) = whole.records().items()
    manifest = json.loads(next(whole.data.glob("prepared/*/manifest.json")).read_text())["splits"]["train"]
    assert record["epochs"] == 3
    assert record["tokens"] == 3 * manifest["target_tokens"]
    assert [score["metric"] for score in record["scores"]] == ["bleu", "chrf"]
    assert {score["items"] for score in record["scores"]} == {40}
    assert 0 < record["train_seconds"] < 100
    assert record["hardware"]["runs_per_device"] == 1


def test_translations_are_those_of_fairseq_s_own_command(whole, tmp_path):
    ((name, record),) = whole.records().items()
    (data,) = whole.data.glob("prepared/demo-*")
    path = tmp_path / "shaken.pt"
    shake(whole.folder / "runs" / name / "checkpoints" / "checkpoint_best.pt", path)
    protocol = record["config"]["protocol"]
    command = [sys.executable, "-c", "from memtrans_fairseq.cli import main; main()", "generate", str(data / "bin")]
    command += ["--path", str(path), "--beam", str(protocol["beam"]), "--lenpen", str(protocol["lenpen"])]
    command += ["--max-len-a", str(protocol["max_len_a"]), "--max-len-b", str(protocol["max_len_b"])]
    command += [
        "--max-tokens",
        str(protocol["batch_tokens"]),
        "--post-process",
        "sentencepiece",
        "--gen-subset",
        "test",
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True)
    rows = [line.split("\t") for line in done.stdout.splitlines() if line.startswith("D-")]
    theirs = {int(label.removeprefix("D-")): text for label, _, text in rows}
    ours = evaluation.translate(*evaluation.load_model(path, data), "test", protocol)
    assert len(set(ours)) > 20
    assert ours == [theirs[index] for index in range(40)]
    # a batch too small for the longest sentence holds it alone (how long a translation may be depends on its batch)
    small = evaluation.translate(*evaluation.load_model(path, data), "test", protocol | {"batch_tokens": 1})
    assert len(small) == 40


def shake(checkpoint: Path, path: Path) -> None:
    """Copy a checkpoint with noise in its parameters: a model that says something else of every sentence."""
    state = checkpoint_utils.load_checkpoint_to_cpu(str(checkpoint))
    generator = torch.Generator().manual_seed(1)
    for tensor in state["model"].values():
        tensor += 0.3 * torch.randn(tensor.shape, generator=generator)
    state["cfg"] = OmegaConf.to_container(state["cfg"])
    torch.save(state, path)


def test_a_learning_curve_stands_beside_the_record(whole):
    ((name, record),) = whole.records().items()
    path = whole.folder / "results/curves" / f"{name}.json"
    found, before = Curve.load(path), path.read_bytes()
    assert found.validation.updates[-1] == record["updates"]
    assert found.training.updates == tuple(range(20, record["updates"] + 1, 20))
    path.unlink()
    command = [sys.executable, "-m", "scripts.curves", str(whole.folder / "runs" / name)]
    subprocess.run(command, cwd=REPOSITORY, check=True)
    assert path.read_bytes() == before


def test_untracked_by_default(whole):
    (run,) = (whole.folder / "runs").iterdir()
    assert not list(run.glob("wandb*"))
    assert not list(run.glob("tensorboard*"))
    assert metrics.read(run / "metrics.jsonl")[-1]["part"] == "score"


# killed


def test_killed_at_every_stage_ends_in_the_same_record(whole, tmp_path):
    """Each start goes on where the last was killed. W&B and TensorBoard look on, which must change nothing."""
    place = Place(TINY, tmp_path / "data", tmp_path)
    tracking = ("tracking.wandb=offline", "tracking.tensorboard=true")
    moments: dict[str, Callable[[], object]] = {
        "preparing": lambda: list(place.data.glob("prepared/*/text")),
        "before the first checkpoint": lambda: "begin training epoch 1" in place.log(),
        "while a checkpoint is saved": lambda: list(tmp_path.glob("runs/*/checkpoints/*.tmp")),
        "in the second epoch": lambda: "begin training epoch 2" in place.log(),
        "before the evaluation": lambda: list(tmp_path.glob("runs/*/trained")),
        "translating": lambda: "translating test" in place.log(),
        "before the record": lambda: list(tmp_path.glob("runs/*/test.hypotheses.txt")),
    }
    for moment, reached in moments.items():
        process = place.start("train", *tracking)
        wait_for(reached, process)
        kill_group(process)
        assert process.returncode == -signal.SIGKILL, moment
        assert not place.records(), moment
    place.train(*tracking)
    assert place.outcome() == whole.outcome()
    curve, undisturbed = (Curve.load(next(p.folder.glob("results/curves/*"))) for p in (place, whole))
    assert curve.validation == undisturbed.validation
    assert curve.training.updates == undisturbed.training.updates

    (run,) = (tmp_path / "runs").iterdir()
    assert {folder.name.rpartition("-")[2] for folder in folders(run)} == {run.name}
    assert len(folders(run)) >= 3
    check_wandb(place, folders(run)[-1])  # the newest folder holds what all attempts did
    check_tensorboard(run, metrics.read(run / "metrics.jsonl"))


def test_killed_after_the_last_update_trains_no_further(place):
    """fairseq alone would make one update too many: it looks at --max-update after an update."""
    overrides = ("train.max_epoch=null", "train.max_update=10")
    place.train(*overrides)
    expected = place.outcome()
    assert expected[0]["updates"] == 10
    (run,) = (place.folder / "runs").iterdir()
    for path in (run / "trained", run / "test.hypotheses.txt", *place.folder.glob("results/*/*")):
        path.unlink()
    place.train(*overrides)
    assert place.outcome() == expected


def test_a_worker_that_lost_its_parent_is_waited_for(whole, place):
    first = place.start("train")
    wait_for(lambda: list(place.folder.glob("runs/*/checkpoints/checkpoint_last.pt")), first)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    assert group(first.pid), "the worker goes on alone"
    second = place.run("train")
    assert second.returncode == 0
    assert "MemTransformer 10, seed 1: another process is at work on it; waiting for it, log " in second.stderr
    assert place.outcome() == whole.outcome()
    end = time.monotonic() + 20
    while group(first.pid) and time.monotonic() < end:  # it wrote the record and is about to end
        time.sleep(0.1)
    assert not group(first.pid)
    assert place.log().count("begin training epoch 1\n") == 1


def test_two_commands_at_once_are_one_run(whole, place):
    processes = [place.start("train") for _ in range(2)]
    printed = [process.communicate(timeout=240)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert printed[0] == printed[1] != ""
    assert place.outcome() == whole.outcome()
    assert place.log().count("begin training epoch 1\n") == 1
    assert place.log().count("another process is at work on MemTransformer 10, seed 1; waiting for it") == 1


def test_control_c_leaves_no_process_behind(whole, place):
    process = place.start("train")
    wait_for(lambda: "begin training epoch 1" in place.log(), process)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert err.splitlines()[-1] == "interrupted; the same command continues"
    assert "Traceback" not in err
    assert not group(process.pid)
    assert not place.records()
    place.train()
    assert place.outcome() == whole.outcome()


def test_a_scheduler_that_ends_the_command_alone_leaves_no_worker(place):
    process = place.start("train")
    wait_for(lambda: "begin training epoch 1" in place.log(), process)
    process.terminate()
    process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM
    assert not group(process.pid)
    assert not place.records()


# several runs


def test_a_sweep_goes_on_when_a_run_fails_and_later_runs_only_that(whole, place):
    shutil.copytree(whole.folder / "results", place.folder / "results")  # one row is there already
    sweep = load_sweeps(CONFIGS)["demo"]
    configs = [compose([*row_overrides(sweep, row, 1, []), *place.overrides]) for row in sweep.rows]
    runs = {run.label: run for run in plan_runs(configs)}
    broken = runs["Transformer"]
    broken.checkpoints.mkdir(parents=True)
    (broken.checkpoints / "checkpoint_last.pt").write_text("no checkpoint")

    done = place.run("sweep", "sweep=demo", "jobs=2")
    assert done.returncode == 1
    (error,) = (line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert error.startswith("error: 1 of 5 runs failed, the same command tries them again. Transformer, seed 1: ")
    assert "checkpoint_last.pt is refused" in error
    assert f"(log: {broken.log})" in error
    finished = set(place.records())
    assert finished == {run.hash for run in runs.values()} - {broken.hash}
    assert "MemBottleneck 10" in done.stdout

    before = place.files()
    (broken.checkpoints / "checkpoint_last.pt").unlink()
    again = place.run("sweep", "sweep=demo", "jobs=2")
    # these toys may be below the floor that the sweep states, which is said, and is no failure of a run
    assert "runs failed" not in again.stderr
    assert set(place.records()) == {*finished, broken.hash}
    changed = {path for path, time_ns in place.files().items() if before.get(path) != time_ns}
    allowed = (str(broken.folder), str(place.folder / "results"))
    assert all(path.startswith(allowed) for path in changed)
    assert not [path for path in changed if Path(path).stem in finished]

    path = place.folder / "results" / "records" / f"{broken.hash}.json"
    path.write_text(path.read_text().replace('"label": "Transformer"', '"label": "mine"'))
    once_more = place.run("sweep", "sweep=demo", "jobs=2")
    assert once_more.returncode == 1
    assert once_more.stderr.startswith(f"error: {path}: the run of the row 'Transformer', recorded as 'mine', so that")


def test_multirun_trains_each(tmp_path):
    """From nothing: preparing the corpus in the same process must not disturb how the later runs are composed."""
    place = Place(TINY, tmp_path / "data", tmp_path)
    done = place.run("train", "-m", "variant=transformer,mem_transformer", "train.max_epoch=1")
    assert done.returncode == 0, done.stderr
    assert sorted(record["variant"] for record in place.records().values()) == ["mem_transformer", "transformer"]
    assert done.stdout.count("test: bleu") == 2
    assert not (REPOSITORY / "multirun.yaml").exists()


# what goes wrong


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["+model.encoder_layrs=2"], "model.encoder_layrs: fairseq has no such option for mem_transformer; did you"),
        (["variant=mem_bottleneck", "model.memory_tokens=0"], "mem_bottleneck_transformer needs at least 1 memory"),
        (["model.memory_init=zeros"], "argument --memory-init: invalid choice: 'zeros'"),
        (["protocol.checkpoint='average 9'", "train.max_epoch=1"], "9 checkpoints are to be averaged, "),
    ],
)
def test_what_only_the_worker_can_see_is_told_in_one_line(place, overrides, says):
    done = place.run("train", *overrides, CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 1
    assert done.stdout == ""
    *_, last = done.stderr.splitlines()
    assert last.startswith("error: ")
    assert says in last
    assert f"(log: {place.logs()[0]})" in last
    assert not place.records()
    assert "Traceback" not in done.stderr


def test_settings_are_refused_before_anything_is_written(place):
    done = place.run("train", "protocol.split=tst")
    assert done.returncode == 1
    assert done.stderr == "error: protocol: corpus demo has no split 'tst'; it has train, valid, test\n"
    assert list(place.folder.iterdir()) == []


def test_tracking_that_fails_does_not_stop_the_run(place):
    """Online without a key, and nobody to ask for one."""
    settings = {"WANDB_API_KEY": "", "HOME": str(place.folder), "WANDB_BASE_URL": "http://127.0.0.1:9"}
    place.train("tracking.wandb=online", "train.max_epoch=1", **settings)
    assert "not logged to W&B: " in place.log()
    assert len(place.records()) == 1
