"""The doctor on real, broken installations: packages are hidden from a real process, and no traceback is shown."""

import os
import re
import subprocess
import sys
from pathlib import Path

from memtrans_fairseq.compat import FAIRSEQ

import pytest
import yaml

from memtrans import doctor

REPOSITORY = Path(__file__).resolve().parent.parent
COMMIT = {"MEMTRANS_COMMIT": "0123456789ab", "CUDA_VISIBLE_DEVICES": "", "MEMTRANS_MIRROR": ""}
SITE = """
import importlib.metadata, sys
hidden, versions = {hidden!r}, {versions!r}

class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in hidden.values():
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

original = importlib.metadata.version

def version(name):
    if name in hidden:
        raise importlib.metadata.PackageNotFoundError(name)
    return versions.get(name) or original(name)

sys.meta_path.insert(0, Hide())
importlib.metadata.version = version
"""


@pytest.fixture
def examine(tmp_path):
    """Run the doctor with packages hidden, {distribution: module}, and others of another version."""

    def run(hidden: dict[str, str] | None = None, versions: dict[str, str] | None = None, **environment: str):
        (tmp_path / "sitecustomize.py").write_text(SITE.format(hidden=hidden or {}, versions=versions or {}))
        path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
        ran = subprocess.run(
            [sys.executable, "-m", "scripts.doctor"],
            cwd=REPOSITORY,
            env=os.environ | COMMIT | {"PYTHONPATH": path} | environment,
            capture_output=True,
            text=True,
            timeout=100,
        )
        assert "Traceback" not in ran.stdout + ran.stderr
        assert ran.stderr == ""
        assert ran.returncode == ("make demo can run" not in ran.stdout)
        return ran

    return run


def problems(output: str) -> list[str]:
    return re.findall(r"^problem +(.*)$", output, re.MULTILINE)


def test_a_whole_installation(examine):
    ran = examine()
    assert ran.returncode == 0
    assert problems(ran.stdout) == []
    assert "registers mem_bottleneck_transformer, mem_bottleneck_transformer_lm, mem_ctrl_transformer" in ran.stdout
    assert "transformer_xl" in ran.stdout
    assert f"ok       fairseq {FAIRSEQ}\n" in ran.stdout
    assert "ok       code at commit 0123456789ab\n" in ran.stdout


def test_fairseq_is_missing(examine):
    ran = examine({"fairseq": "fairseq"})
    assert ran.returncode == 1
    missing, fails = problems(ran.stdout)
    assert missing == "fairseq is missing"
    assert fails.startswith("import memtrans_fairseq fails: ImportError: fairseq is not installed")
    assert f"pip install --no-deps fairseq=={FAIRSEQ}\n" in ran.stdout


def test_torch_is_missing(examine):
    ran = examine({"torch": "torch"})
    assert ran.returncode == 1
    assert problems(ran.stdout)[:2] == [
        "torch is missing",
        "import torch fails: ModuleNotFoundError: No module named 'torch'",
    ]
    assert re.search(r"to mend it: make setup, or: .* -m pip install torch", ran.stdout)


def test_nearly_everything_is_missing(examine):
    hidden = {"omegaconf": "omegaconf", "rich": "rich", "pyyaml": "yaml", "numpy": "numpy", "torch": "torch"}
    ran = examine(hidden, MEMTRANS_MIRROR="/")
    assert ran.returncode == 1
    assert {f"{name} is missing" for name in hidden} <= set(problems(ran.stdout))
    assert "GB free for data/" in ran.stdout  # the later checks still run


def test_other_versions(examine):
    ran = examine(versions={"numpy": "2.0.1"})
    assert ran.returncode == 0
    assert re.search(
        r"note     numpy 2\.0\.1 differs from the tested \d+\.\d+\.\d+\n .*pip install numpy==", ran.stdout
    )
    ran = examine(versions={"fairseq": "0.10.2"})
    assert ran.returncode == 1
    assert problems(ran.stdout)[0] == f"fairseq 0.10.2 differs from the tested {FAIRSEQ}"


def test_the_demo_needs_no_wandb(examine):
    ran = examine({"wandb": "wandb"})
    assert ran.returncode == 0
    assert "note     wandb is missing" in ran.stdout


def test_no_commit(examine, tmp_path):
    ran = examine(MEMTRANS_COMMIT="", GIT_DIR=str(tmp_path / "none"))
    assert ran.returncode == 1
    assert len(problems(ran.stdout)) == 1
    assert "commit is not known" in ran.stdout
    assert "set MEMTRANS_COMMIT" in ran.stdout


def test_a_mirror_is_described(examine, tmp_path):
    name, file = next(iter(yaml.safe_load((REPOSITORY / "configs/corpus/multi30k.yaml").read_text())["files"].items()))
    (tmp_path / "multi30k").mkdir()
    (tmp_path / "multi30k" / name).write_bytes(b"x" * file["bytes"])
    (tmp_path / "multi30k" / "val.de.gz").write_bytes(b"of another size")
    ran = examine(MEMTRANS_MIRROR=str(tmp_path))
    assert f"MEMTRANS_MIRROR={tmp_path} holds 1 of 12 files of multi30k, " in ran.stdout
    assert "0 of 12 files of wmt14_deen" in ran.stdout
    ran = examine(MEMTRANS_MIRROR=str(tmp_path / "none"))
    assert ran.returncode == 0
    assert "none is no folder" in ran.stdout


def test_a_gpu_that_torch_does_not_see(examine, tmp_path):
    driver = tmp_path / "nvidia-smi"
    driver.write_text("#!/bin/sh\necho 'NVIDIA H200, 570.00, 5 MiB, 143771 MiB'\n")
    driver.chmod(0o755)
    ran = examine(PATH=f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert ran.returncode == 0
    assert "NVIDIA H200, driver 570.00, 5 MiB of 143771 MiB in use" in ran.stdout
    assert re.search(
        r"note     torch sees no GPU.*\n +to mend it: (install torch built for|update the NVIDIA)", ran.stdout
    )
    assert "CUDA MPS is" in ran.stdout


def test_its_own_constant_is_the_plugins():
    assert doctor.FAIRSEQ == FAIRSEQ
