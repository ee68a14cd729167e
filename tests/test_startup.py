"""No process imports what takes long and what it does not need. Speeds are in benchmarks/startup.py."""

import re
import subprocess
import sys
from ctypes.util import find_library
from pathlib import Path

import pytest
import torch
import workers

REPOSITORY = Path(__file__).resolve().parent.parent
SLOW = {"torch", "fairseq", "scipy", "matplotlib", "wandb", "submitit"}


def imports(*command: str) -> tuple[str, set[str]]:
    """What a process printed, and the modules that it imported, by their full names."""
    ran = subprocess.run([sys.executable, "-X", "importtime", *command], cwd=REPOSITORY, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-2000:]
    return ran.stdout, set(re.findall(r"^import time:.*\| +([\w.]+)$", ran.stderr, re.MULTILINE))


@pytest.mark.parametrize("script", sorted(path.stem for path in (REPOSITORY / "scripts").glob("[!_]*.py")))
def test_help_imports_nothing_slow(script):
    said, imported = imports("-m", f"scripts.{script}", "--help")
    assert script in said
    assert "memtrans" in imported
    assert imported & SLOW == set()


def test_gpus_are_counted_without_torch_where_there_is_none():
    said, imported = imports("-c", "from memtrans.launch import count_gpus; print(count_gpus())")
    assert said == f"{torch.cuda.device_count()}\n"
    assert find_library("cuda") or "torch" not in imported


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "options"),
    [
        ("translation", ("train.optimizer=adam",)),
        ("translation", ("train.optimizer=fused_adam",)),
        ("language_modeling", ()),
    ],
    ids=str,
)
def test_a_training_that_compiles_nothing_does_not_import_the_compiler(task, options, tmp_path):
    run = workers.make_run(task, tmp_path, tmp_path, *options)
    _, imported = imports("-m", "memtrans.worker", str(run.folder), "train")
    assert "torch" in imported
    assert "torch._dynamo" not in imported
