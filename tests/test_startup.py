"""No process imports what takes long and what it does not need. Speeds are in benchmarks/startup.py."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import workers

from memtrans import launch

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


def test_gpus_are_counted_without_torch():
    said, imported = imports("-c", "from memtrans.launch import count_gpus; print(count_gpus())")
    assert said == f"{torch.cuda.device_count()}\n"
    assert "torch" not in imported


class Driver:
    """NVIDIA's, as `ctypes` shows it: each call returns 0, or the number of an error."""

    def __init__(self, gpus: int, error: int, counting: int) -> None:
        self.gpus, self.error, self.counting = gpus, error, counting

    def cuInit(self, flags: int) -> int:
        return self.error

    def cuDeviceGetCount(self, count: Any) -> int:
        count._obj.value = self.gpus
        return self.counting


@pytest.mark.parametrize(
    ("build", "errors", "found"),
    [
        ({"cuda": "12.9", "hip": None}, (0, 0), 8),
        ({"cuda": "12.9"}, (0, 0), 8),
        ({"cuda": None, "hip": None}, (0, 0), 0),
        ({"cuda": "12.9", "hip": None}, (launch.NO_GPU, 0), 0),
        ({"cuda": "12.9", "hip": None}, (802, 0), "torch's"),
        ({"cuda": "12.9", "hip": None}, (0, 3), "torch's"),
        ({"cuda": None, "hip": "6.4"}, (0, 0), "torch's"),
    ],
    ids=["eight", "an older torch", "torch without CUDA", "none", "no start", "no count", "AMD's"],
)
def test_gpus_are_those_of_the_driver_unless_torch_knows_better(build, errors, found, monkeypatch):
    monkeypatch.setattr(launch.ctypes, "CDLL", lambda name: Driver(8, *errors))
    monkeypatch.setattr(launch.runpy, "run_path", lambda path: build)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: "torch's")
    assert launch.count_gpus() == found


def test_without_a_driver_there_are_no_gpus(monkeypatch):
    def missing(name):
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(launch.ctypes, "CDLL", missing)
    monkeypatch.setattr(launch.runpy, "run_path", lambda path: {"cuda": "12.9"})
    monkeypatch.setattr(torch.cuda, "device_count", lambda: "torch's")
    assert launch.count_gpus() == 0


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
