"""The doctor on real, broken installations: packages are hidden from a real process, and no traceback is shown."""

import os
import re
import subprocess
import sys
from pathlib import Path

from memtrans_fairseq.compat import FAIRSEQ

import pytest
import yaml
from hidden import hide

from memtrans import doctor
from memtrans.mounts import mount_of, trouble_with_locks

REPOSITORY = Path(__file__).resolve().parent.parent
COMMIT = {"MEMTRANS_COMMIT": "0123456789ab", "CUDA_VISIBLE_DEVICES": "", "MEMTRANS_MIRROR": ""}


@pytest.fixture
def examine(tmp_path):
    """Run the doctor with packages hidden, {distribution: module}, and others of another version."""

    def run(hidden: dict[str, str] | None = None, versions: dict[str, str] | None = None, **environment: str):
        ran = subprocess.run(
            [sys.executable, "-m", "scripts.doctor"],
            cwd=REPOSITORY,
            env=os.environ | COMMIT | hide(tmp_path, hidden or {}, versions) | environment,
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
    ran = examine(MEMTRANS_COMMIT="new")
    assert ran.returncode == 1
    assert "MEMTRANS_COMMIT=new" in ran.stdout
    assert "expected a git commit" in ran.stdout


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


def test_slurm_and_its_partitions(monkeypatch, tmp_path):
    sinfo = tmp_path / "sinfo"
    monkeypatch.setenv("PATH", str(tmp_path))
    (found,) = doctor.slurm()
    assert (found.state, found.what[:13]) == ("ok", "no Slurm here")
    sinfo.write_text("#!/bin/sh\necho 'gpu (3 nodes, up)'\necho 'cpu (1 nodes, down)'\n")
    sinfo.chmod(0o755)
    (found,) = doctor.slurm()
    assert (found.state, found.what) == ("ok", "Slurm answers: gpu (3 nodes, up), cpu (1 nodes, down)")
    sinfo.write_text("#!/bin/sh\necho 'slurm_load_partitions: Unable to contact slurm controller' >&2\nexit 1\n")
    (found,) = doctor.slurm()
    assert found.state == "note"
    assert found.what == "Slurm does not answer: slurm_load_partitions: Unable to contact slurm controller"


def test_locks_that_work():
    assert [re.sub(r"on \w+", "on it", found.what) for found in doctor.locks()] == [
        "locks work in data/, on it",
        "locks work in runs/, on it",
    ]


def test_locks_that_are_not_honoured(tmp_path):
    (tmp_path / "fcntl.py").write_text("LOCK_EX = LOCK_NB = 0\nflock = lambda *_: None\n")
    found = mounts_in_a_process_with(tmp_path)
    assert found == "two processes got the same one"
    (tmp_path / "fcntl.py").write_text("LOCK_EX = LOCK_NB = 0\ndef flock(*_): raise OSError(37, '')\n")
    assert mounts_in_a_process_with(tmp_path) == "there are none: No locks available"


def mounts_in_a_process_with(folder: Path) -> str:
    """What is found in a process whose modules come from `folder` first."""
    program = "import sys; from memtrans.mounts import *; print(trouble_with_locks(Path(sys.argv[1])))"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), str(REPOSITORY)])}
    ran = subprocess.run(
        [sys.executable, "-c", program, str(folder)], cwd=REPOSITORY, env=environment, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


@pytest.mark.parametrize(
    ("kind", "options", "trouble"),
    [
        ("nfs4", "rw,vers=4.2,local_lock=none", ""),
        ("nfs", "rw,vers=3,local_lock=all", "they hold on this host only: local_lock=all"),
        ("nfs", "rw,nolock", "they hold on this host only: nolock"),
        ("lustre", "rw,flock", ""),
        ("lustre", "rw,localflock", "they hold on this host only: localflock"),
        ("fuse.sshfs", "rw", "they hold on this host only: fuse.sshfs"),
    ],
)
def test_mounts_whose_locks_hold_on_one_host(tmp_path, kind, options, trouble):
    folder = tmp_path / "with space"
    (folder / "data").mkdir(parents=True)
    point = str(folder).replace(" ", r"\040")
    mounts = "1 0 8:1 / / rw - ext4 /dev/a rw\n"
    mounts += f"2 1 0:9 /export {point} rw,noatime shared:1 - {kind} host:/export {options}\n"
    assert mount_of(folder / "data", mounts)[0] == kind
    assert mount_of(tmp_path, mounts)[0] == "ext4"
    assert trouble_with_locks(folder / "data", mounts) == trouble


def test_its_own_constant_is_the_plugins():
    assert doctor.FAIRSEQ == FAIRSEQ
