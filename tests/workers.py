"""Runs of a test's own, and the processes that do them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import memtrans_fairseq  # noqa: F401  (must come before fairseq)

import torch
from fairseq.checkpoint_utils import load_checkpoint_to_cpu
from places import REPOSITORY

from memtrans.configuration import compose
from memtrans.runs import Run
from memtrans.sweeping import plan_runs

TRANSLATION = tuple(f"corpus.sizes.{split}={pairs}" for split, pairs in (("train", 600), ("valid", 40), ("test", 40)))
TRANSLATION += ("corpus.vocabulary.size=200", "train.max_epoch=2", "train.save_interval_updates=5", "train.lr=1e-2")
LANGUAGE = ("corpus=demo_lm", "size=lm_demo", "protocol=lm", "train.tokens_per_sample=16", "train.batch_size=4")
LANGUAGE += tuple(f"corpus.sizes.{split}={n}" for split, n in (("train", 12), ("valid", 2), ("test", 2)))
LANGUAGE += ("train.max_update=24", "train.warmup_updates=5", "train.save_interval_updates=10")
LANGUAGE += ("variant=mem_transformer_lm", "model.mem_len=24", "model.memory_tokens=3")
LANGUAGE += ("model.memory_placement=recurrent", "model.memory_bptt=2")
SETTINGS = {"translation": TRANSLATION, "language_modeling": LANGUAGE}
# what fairseq derives from other parameters, and nothing reads
DERIVED = ("in_proj_weight", "in_proj_bias", "out_proj_weight", "out_proj_bias", "fc1_weight", "fc1_bias")
DERIVED += ("fc2_weight", "fc2_bias", "_float_tensor")


def make_run(task: str, data: Path, folder: Path, *overrides: str, gpus: int = 1, accumulate: int = 1) -> Run:
    """A run, ready for a worker; its corpus is prepared in `data` if it is not yet there."""
    places = (f"paths.data={data}", f"paths.runs={folder / 'runs'}", f"paths.results={folder / 'results'}")
    (run,) = plan_runs([compose([*SETTINGS[task], *places, *overrides])])
    run = replace(run, gpus=gpus, accumulate=accumulate)
    run.write()
    return run


def start(run: Run, *halves: str, launcher: tuple[str, ...] = (), **options: Any) -> subprocess.Popen:
    """A worker, the leader of a process group of its own. What it says goes to the run's log."""
    with run.log.open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", *launcher, "memtrans.worker", str(run.folder), *halves],
            cwd=REPOSITORY,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            **options,
        )


def finish(run: Run, *halves: str) -> None:
    assert start(run, *halves).wait(timeout=200) == 0, run.log.read_text()[-3000:]


def signal_when(run: Run, moment: str, number: signal.Signals, process: subprocess.Popen) -> int:
    """Send a signal to all processes of a worker as soon as its log says `moment` (once more); its exit status."""
    before = said(run, moment)
    wait(lambda: said(run, moment) > before or process.poll() is not None)
    os.killpg(process.pid, number)
    return process.wait(timeout=60)


def said(run: Run, words: str) -> int:
    return run.log.read_text(errors="replace").count(words) if run.log.exists() else 0


def wait(condition: Callable[[], object], seconds: float = 100) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.002)


def errors(run: Run) -> list[str]:
    return [line for line in run.log.read_text(errors="replace").splitlines() if line.startswith("error: ")]


def state(folder: Path) -> dict[str, Any]:
    """The last checkpoint's parameters, optimiser and place in the data, by name."""
    checkpoint = load_checkpoint_to_cpu(str(folder / "checkpoint_last.pt"))
    parts = {"model": checkpoint["model"], "optimizer": checkpoint["last_optimizer_state"]["state"]}
    parts["place"] = checkpoint["extra_state"]["train_iterator"]
    parts["updates"] = checkpoint["optimizer_history"][-1]["num_updates"]
    parts["carried"] = checkpoint["task_state"]
    return {name: leaf for name, leaf in _leaves(parts) if not name.endswith(DERIVED)}


def _leaves(tree: Any, name: str = "") -> list[tuple[str, Any]]:
    if isinstance(tree, Mapping):
        return [leaf for key in tree for leaf in _leaves(tree[key], f"{name}.{key}")]
    if isinstance(tree, list | tuple):
        return [leaf for index, value in enumerate(tree) for leaf in _leaves(value, f"{name}.{index}")]
    return [(name, tree)]


def differing(one: Path, other: Path) -> list[str]:
    """The names of what is not the same, bit for bit, in the last checkpoints of two folders."""
    first, second = state(one), state(other)
    assert first.keys() == second.keys()

    def same(a: Any, b: Any) -> bool:
        return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b

    return [name for name in first if not same(first[name], second[name])]
