"""Several processes train what one would: the same batches, losses and gradients. Real processes, gloo, the CPU."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import memtrans_fairseq  # noqa: F401  (must come before fairseq)
from memtrans_fairseq.sharing import parts
from memtrans_fairseq.streaming import StreamDataset

import numpy as np
import pytest
import torch
from workers import differing, errors, finish, make_run, said, signal_when, start, state, wait

from memtrans.errors import UserError
from memtrans.ranks import Ranks, read_ranks
from memtrans.runs import Run
from memtrans.stops import STOPPED

GIVEN = {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("data")


# which process this is


def test_ranks_are_those_of_the_environment():
    assert read_ranks(GIVEN) == Ranks(rank=1, count=4, local=1)
    assert read_ranks({}) == read_ranks({"RANK": "0", "WORLD_SIZE": "1"}) == Ranks()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"WORLD_SIZE": "2", "RANK": "1"}, "LOCAL_RANK, MASTER_ADDR, MASTER_PORT not set"),
        (GIVEN | {"RANK": "one"}, "RANK=one WORLD_SIZE=4 LOCAL_RANK=1: expected whole numbers"),
    ],
)
def test_an_environment_that_cannot_work_is_refused(given, message):
    with pytest.raises(UserError, match=message):
        read_ranks(given)


MEETS = (
    "import os, sys; from memtrans import training; from memtrans.ranks import read_ranks\n"
    "from memtrans.stops import Stops\n"
    "stops = Stops(); stops.watch(); training.MEETING_SECONDS = float(sys.argv[1]); print('meeting', flush=True)\n"
    "try: training.join(read_ranks(os.environ), True)\n"
    "except training.UserError as error: sys.exit(str(error))\n"
)


@pytest.mark.parametrize(
    "given", [{"RANK": "0"}, {"RANK": "1"}, {"RANK": "1", "MASTER_ADDR": "nowhere.invalid"}], ids=str
)
def test_processes_that_cannot_meet_say_so_soon(given):
    environment = os.environ | GIVEN | {"WORLD_SIZE": "2", "MASTER_PORT": str(free_port())} | given
    command = [sys.executable, "-c", MEETS, "3"]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 1
    said = ran.stderr.splitlines()[-1]
    assert said.startswith(f"process {given['RANK']} of 2: could not meet the others at {environment['MASTER_ADDR']}:")
    assert said.endswith("See CLUSTER.md, Several GPUs")


@pytest.mark.parametrize("rank", ["0", "1"])
def test_a_signal_ends_a_process_that_waits_for_others(rank):
    environment = os.environ | GIVEN | {"WORLD_SIZE": "2", "MASTER_PORT": str(free_port()), "RANK": rank}
    with subprocess.Popen([sys.executable, "-c", MEETS, "60"], env=environment, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"meeting\n"
        time.sleep(6)  # it imports torch first
        process.send_signal(signal.SIGUSR2)
        assert process.wait(10) in (-signal.SIGUSR2, STOPPED)


# what each takes of a batch


@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
@pytest.mark.parametrize("accumulate", [1, 2, 5])
@pytest.mark.parametrize("rows", [0, 1, 7, 64])
def test_every_row_is_of_one_rank_and_one_part(ranks, accumulate, rows):
    batch = np.arange(rows)
    given = [parts(batch, rank, ranks, accumulate) for rank in range(ranks)]
    assert {len(of_rank) for of_rank in given} == {accumulate}
    assert sorted(row for of_rank in given for part in of_rank for row in part) == list(range(rows))
    sizes = [len(part) for of_rank in given for part in of_rank]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_the_parts_of_a_stream_are_its_rows(count):
    stream = StreamDataset(np.arange(100, 203), 7, 8, 2, 1)
    shared = [stream.part(number, count) for number in range(count)]
    for index, whole in enumerate(stream):
        items = [part[index] for part in shared]
        assert torch.equal(torch.cat([item["target"] for item in items]), whole["target"])
        source = torch.cat([item["net_input"]["src_tokens"] for item in items])
        assert torch.equal(source, whole["net_input"]["src_tokens"])
        assert sum(item["ntokens"] for item in items) == whole["ntokens"]
        assert [sum(item["nsentences"] for item in items), items[0]["place"]] == [7, whole["place"]]


# what they learn

SHORT = {
    "translation": ("train.max_epoch=null", "train.max_update=3", "model.dropout=0", "train.save_interval_updates=0"),
    # into the second epoch
    "packed": ("+train.packed=true", "train.max_tokens=8192", "train.max_update=4", "model.dropout=0"),
    "language_modeling": ("train.max_update=3", "model.dropout=0", "train.save_interval_updates=0"),
}


def learned(run: Run) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    """What the epoch and the validation say, and the optimiser's running means of the gradients."""
    lines = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    losses = {line["part"]: line["loss"] for line in lines if line["part"] in ("train", "valid")}
    gradients = {name: leaf for name, leaf in state(run.checkpoints).items() if name.endswith("exp_avg")}
    return losses, gradients


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "shares"),
    [("translation", [(2, 1), (4, 1), (2, 3)]), ("packed", [(2, 3)]), ("language_modeling", [(2, 1), (4, 1)])],
    ids=["translation", "packed", "language_modeling"],
)
def test_losses_and_gradients_are_those_of_one_process(data, tmp_path, task, shares):
    """Also in parts, and where the rows do not come out even: 10 rows of a stream to validate on, on 4 ranks."""
    options = SHORT[task]
    task = "translation" if task == "packed" else task
    alone = make_run(task, data, tmp_path / "alone", *options)
    finish(alone, "train")
    losses, gradients = learned(alone)
    assert set(losses) == {"train", "valid"}
    assert any(mean.abs().max() > 1e-3 for mean in gradients.values())
    for count, accumulate in shares:
        run = make_run(task, data, tmp_path / f"{count}-{accumulate}", *options, gpus=count, accumulate=accumulate)
        assert run.hash == alone.hash
        finish(run, "train")
        assert said(run, f"training on {count} devices") == 1
        found, means = learned(run)
        assert found == pytest.approx(losses, abs=0.002)  # logged with three digits
        for name, mean in gradients.items():
            # as a whole: where rounding turns one ReLU, a few numbers are others
            difference = (means[name] - mean).norm().item()
            assert difference <= 1e-3 * mean.norm().item() + 1e-5, f"{count}, {accumulate}: {name}"
    if task == "translation":
        finish(run, "evaluate")
        record = run.record()
        assert record is not None
        assert (record.hardware.devices, record.updates) == (2, alone.identity["train"]["max_update"])


@pytest.fixture
def groups_end_with_the_work(tmp_path, monkeypatch):
    """Of all processes that end by themselves. One that outlives it aborts its process now and then: see `leave`."""
    (tmp_path / "sitecustomize.py").write_text(
        "import atexit, sys\n"
        "@atexit.register\n"
        "def look():\n"
        "    group = sys.modules.get('torch.distributed')\n"
        "    if group and group.is_initialized():\n"
        "        print('a group has outlived its work', file=sys.stderr)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    yield
    logs = [log.read_text() for log in tmp_path.glob("**/log.txt")]
    assert logs
    assert not any("a group has outlived its work" in log for log in logs)


STOPPED_EARLY = ("train.max_epoch=null", "train.max_update=10", "train.save_interval_updates=3", "train.lr=1e-3")


@pytest.mark.slow
@pytest.mark.parametrize(("task", "accumulate"), [("translation", 2), ("language_modeling", 1)])
def test_the_number_of_processes_may_change_in_the_middle(data, tmp_path, task, accumulate):
    """Also that of a language model: the first rank saves what all carry."""
    settings = (*STOPPED_EARLY, "model.dropout=0")
    alone = make_run(task, data, tmp_path / "alone", *settings)
    finish(alone, "train")
    run = make_run(task, data, tmp_path / "run", *settings, gpus=2)
    assert signal_when(run, "Saved checkpoint", signal.SIGUSR1, start(run, "train")) == STOPPED
    run = make_run(task, data, tmp_path / "run", *settings, accumulate=accumulate)
    finish(run, "train")
    assert said(run, "stopped after update") == 1
    expected, found = state(alone.checkpoints), state(run.checkpoints)
    assert found[".updates"] == expected[".updates"] == 10
    assert found[".place.iterations_in_epoch"] == expected[".place.iterations_in_epoch"] == 10
    for name, value in expected.items():
        if name.startswith((".model", ".carried")) and isinstance(value, torch.Tensor):
            torch.testing.assert_close(found[name], value, atol=1e-3, rtol=1e-2, msg=name)


@pytest.mark.slow
@pytest.mark.usefixtures("groups_end_with_the_work")
def test_two_processes_that_are_stopped_go_on_exactly(data, tmp_path):
    """With dropout, which each rank draws for itself, and what each carries from segment to segment."""
    settings = (*STOPPED_EARLY, "model.dropout=0.1")
    whole = make_run("language_modeling", data, tmp_path / "whole", *settings, gpus=2)
    finish(whole, "train")
    run = make_run("language_modeling", data, tmp_path, *settings, gpus=2)
    assert signal_when(run, "Saved checkpoint", signal.SIGTERM, start(run, "train")) == STOPPED
    finish(run, "train")
    assert said(run, "stopped after update") == 1
    assert differing(whole.checkpoints, run.checkpoints) == []


# when one dies


def process_of(rank: int, run: Run) -> int | None:
    """The id of a rank's process."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().split(b"\0")
            variables = (folder / "environ").read_bytes().split(b"\0")
        except OSError:  # it has just ended
            continue
        if str(run.folder).encode() in command and f"RANK={rank}".encode() in variables:
            return int(folder.name)
    return None


@pytest.mark.slow
def test_a_rank_that_dies_under_torchrun_takes_the_others_down(data, tmp_path):
    run = make_run("translation", data, tmp_path, "train.max_epoch=1000")
    launcher = ("torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m")
    process = start(run, launcher=launcher)
    wait(lambda: said(run, "Start iterating"))
    died = time.monotonic()
    os.kill(process_of(1, run), signal.SIGKILL)
    assert process.wait(timeout=60) not in (0, STOPPED)
    assert time.monotonic() - died < 40
    (error,) = errors(run)
    assert error.startswith("error: process 0 of 2: another one has ended, so this one ends too")
    assert process_of(0, run) is None


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_dies_is_named_by_the_worker_that_started_it(data, tmp_path, rank):
    run = make_run("translation", data, tmp_path, "train.max_epoch=1000", gpus=2)
    process = start(run)
    wait(lambda: said(run, "Start iterating"))
    os.kill(process_of(rank, run), signal.SIGKILL)
    assert process.wait(timeout=60) == 1
    assert errors(run) == [f"error: process {rank} of 2 was killed by SIGKILL; was the memory full?"]
    assert process_of(1 - rank, run) is None
