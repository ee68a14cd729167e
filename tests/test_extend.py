"""A run that continues another with more memory: what it is, and what it starts from."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import memtrans_fairseq  # noqa: F401  (must come before fairseq)

import pytest
import torch
from fairseq import checkpoint_utils
from make_records import record

from memtrans.analysis.extending import extension, write_start
from memtrans.errors import UserError
from memtrans.runs import Run, train_arguments

PROTOCOL = {"name": "full", "checkpoint": "best", "sentences": None, "beam": 5, "batch_tokens": 1000}
PROTOCOL |= {"draw_seed": 0, "lenpen": 1.0, "max_len_a": 1.2, "max_len_b": 10}
IDENTITY: dict[str, Any] = {
    "corpus": {"name": "toy", "fingerprint": "0123456789abcdef", "languages": ["de", "en"]},
    "size": "demo",
    "variant": "mem_transformer",
    "arch": "mem_transformer",
    "model": {"memory_tokens": 4},
    "train": {"precision": "fp32", "lr": 1e-3, "max_update": None, "max_epoch": 4},
    "protocol": PROTOCOL,
    "seed": 1,
}


def parent(folder: Path, **changes: Any) -> Run:
    return Run(IDENTITY | changes, "MemTransformer 4", folder, folder / "runs", folder, {"tensorboard": False})


def test_it_is_the_parent_s_with_other_memory_and_training(tmp_path):
    first = parent(tmp_path)
    run = extension(first, record(updates=550), 8, "copies", ["train.lr=2e-3"])
    assert run.identity == IDENTITY | {
        "model": {"memory_tokens": 8},
        "train": {"precision": "fp32", "lr": 2e-3, "max_update": 55, "max_epoch": 4},
        "parent": {"run": first.hash, "setting": first.setting, "memory_tokens": 4, "start": "copies"},
    }
    assert first.identity == IDENTITY
    assert run.label == "MemTransformer 4, continued with 8"
    arguments = train_arguments(run)
    assert arguments[arguments.index("--finetune-from-model") + 1] == str(run.folder / "start.pt")
    assert "--finetune-from-model" not in train_arguments(first)


def test_enough_checkpoints_are_saved_for_an_average(tmp_path):
    averaged = parent(
        tmp_path,
        protocol=PROTOCOL | {"checkpoint": "average 5"},
        train=IDENTITY["train"] | {"save_interval_updates": 250},
    )
    for changes, interval in (([], 30), (["train.max_update=100"], 10), (["train.save_interval_updates=7"], 7)):
        run = extension(averaged, record(updates=3000), 8, "new", changes)
        assert run.identity["train"]["save_interval_updates"] == interval


def test_runs_of_parents_that_differ_by_seed_share_a_setting(tmp_path):
    runs = [extension(parent(tmp_path, seed=seed), record(), 8, "new", []) for seed in (1, 2)]
    assert runs[0].hash != runs[1].hash
    assert runs[0].setting == runs[1].setting
    other = extension(parent(tmp_path), record(), 8, "copies", [])
    assert other.setting != runs[0].setting


@pytest.mark.parametrize(
    ("tokens", "start", "changes", "says"),
    [
        (8, "old", [], "start=old: expected new or copies"),
        (8, "new", ["train.lrr=1"], r"train.lrr: not a training option of the run; did you mean train.lr\?"),
        (8, "new", ["train.max_update=null", "train.max_epoch=null"], "training would never end"),
        (8, "new", ["train.lr"], "train.lr: expected train.key=value"),
        (8, "new", ["train.lr=[1"], r"train.lr=\[1: expected train.key=value"),
        (8, "new", ["train.max_update=-4"], "train.max_update=-4: expected null or a whole number of at least 1"),
        (8, "new", ["train.precision=fp33"], "train.precision=fp33: expected "),
    ],
)
def test_what_cannot_work_is_refused(tmp_path, tokens, start, changes, says):
    with pytest.raises(UserError, match=says):
        extension(parent(tmp_path), record(), tokens, start, changes)


def test_what_the_parent_could_not_be_is_refused_too(tmp_path):
    packed = {"criterion": "label_smoothed_cross_entropy", "packed": True, "compile": True, "cuda_graphs": True}
    first = parent(tmp_path, train=IDENTITY["train"] | packed)
    assert extension(first, record(), 8, "new", ["train.cuda_graphs=false"]).identity["train"]["compile"]
    with pytest.raises(UserError, match="train.cuda_graphs=true is for what is compiled: set it to false"):
        extension(first, record(), 8, "new", ["train.compile=false"])


def test_a_run_without_memory_is_refused(tmp_path):
    with pytest.raises(UserError, match="has no memory to extend"):
        extension(parent(tmp_path, model={}), record(), 8, "new", [])


@pytest.mark.parametrize(("side", "tokens"), [("encoder", 6), ("encoder", 2), ("decoder", 6)])
def test_it_starts_from_the_parent_s_weights(tmp_path, side, tokens):
    first = parent(tmp_path)
    run = extension(first, record(), tokens, "copies", [])
    name = f"{side}.memory.weight"
    memory, other = torch.randn(4, 3), torch.randn(5)
    state = {
        "args": None,
        "cfg": {"model": {"_name": "mem_transformer"}, "task": {"_name": "translation"}},
        "model": {name: memory, "other": other},
        "optimizer_history": [{"num_updates": 9, "optimizer_name": "Adam", "lr_scheduler_state": {}}],
        "extra_state": {"train_iterator": {"epoch": 1}, "task_state": {"carried": memory}},
        "task_state": {"carried": memory},
        "last_optimizer_state": {"large": torch.zeros(100)},
    }
    first.checkpoints.mkdir(parents=True)
    torch.save(state, first.checkpoints / "checkpoint_best.pt")
    write_start(first, run)
    found = checkpoint_utils.load_checkpoint_to_cpu(str(run.start))
    assert torch.equal(found["model"]["other"], other)
    assert torch.equal(found["model"][name], memory[[0, 1, 2, 3, 0, 1][:tokens]])
    assert not {"task_state", "last_optimizer_state"} & {*found, *found["extra_state"]}
    before = run.start.stat().st_mtime_ns
    write_start(first, replace(run))
    assert run.start.stat().st_mtime_ns == before, "written once"
    assert [path.name for path in run.folder.iterdir()] == ["start.pt"]
