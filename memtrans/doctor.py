"""What is installed, what the machine has, what is missing and how to mend it.

Everything may be broken when this runs, so only the standard library is imported; torch and fairseq are tried in a
process of their own.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from memtrans.mounts import mount_of, trouble_with_locks

ROOT = Path(__file__).resolve().parent.parent
FAIRSEQ = "0.12.2"  # constraints.txt has the other versions
OPTIONAL = ("wandb", "tensorboard", "matplotlib", "cffi", "cython")  # the demo runs without
DISK, MEMORY = 1e9, 2e9  # bytes that the demo needs free
SETUP = "make setup"
PROBE_SECONDS = 120  # a machine that needs longer to import torch and fairseq has another problem


@dataclass
class Finding:
    """One line of the report. `state` is ok, note (the demo runs all the same) or problem (it cannot)."""

    state: str
    what: str
    remedy: str = ""


def examine() -> Iterator[Finding]:
    """All findings, as they come. A check that itself fails is a finding too."""
    if not (3, 11) <= sys.version_info < (3, 13):
        yield Finding(
            "problem", f"Python {sys.version.split()[0]}", "use Python 3.11 or 3.12: make PYTHON=python3.12 setup"
        )
        return
    yield Finding("ok", f"Python {sys.version.split()[0]} in {sys.prefix}")
    for check in (packages, plugin_and_torch, gpus, machine, disk, locks, slurm, code, mirror, corpora):
        try:
            yield from check()
        except Exception as error:
            yield Finding("problem", f"{check.__name__}: {type(error).__name__}: {error}", SETUP)


def packages() -> Iterator[Finding]:
    """The packages that pyproject.toml names, and fairseq, against the versions that constraints.txt pins."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = [re.split(r"[^\w.-]", needed)[0] for needed in project["dependencies"]]
    pinned = {"fairseq": FAIRSEQ} | _pins(ROOT / "constraints.txt")
    for name in [*names, "fairseq"]:
        wanted = pinned.get(name.lower())
        install = f"{name}=={wanted}" if wanted else name
        remedy = f"{SETUP}, or: {sys.executable} -m pip install {'--no-deps ' if name == 'fairseq' else ''}{install}"
        try:
            found = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield Finding("note" if name in OPTIONAL else "problem", f"{name} is missing", remedy)
            continue
        if wanted in (None, found.partition("+")[0]):  # 2.13.0+cpu is 2.13.0
            yield Finding("ok", f"{name} {found}")
        else:
            state = "problem" if name == "fairseq" else "note"
            yield Finding(state, f"{name} {found} differs from the tested {wanted}", remedy)


def _pins(constraints: Path) -> dict[str, str]:
    """Versions by lower-case name; none if the file is not there."""
    lines = constraints.read_text(encoding="utf-8").splitlines() if constraints.exists() else []
    pins = (line.partition("#")[0].partition(";")[0].strip().partition("==") for line in lines)
    return {name.strip().lower(): version.strip() for name, equal, version in pins if equal}


def plugin_and_torch() -> Iterator[Finding]:
    """What torch sees, and the plugin's models; both from another process, which may fail."""
    command = [sys.executable, "-c", "from memtrans.doctor import probe; probe()"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PROBE_SECONDS)
    lines = [line for line in ran.stdout.splitlines() if line.startswith("{")]
    found = {key: value for line in lines for key, value in json.loads(line).items()}
    said = [line.strip() for line in ran.stderr.splitlines() if line.strip()] or ["it ended without a word"]
    if "torch" not in found:
        yield Finding("problem", f"import torch fails: {said[-1]}", SETUP)
    elif devices := found["torch"]["gpus"]:
        yield from (Finding("ok", f"torch sees {name}, {size / 1e9:.0f} GB") for name, size in devices)
    elif shutil.which("nvidia-smi"):
        built = found["torch"]["cuda"]
        cure = "update the NVIDIA driver, and look at CUDA_VISIBLE_DEVICES" if built else "install torch built for CUDA"
        yield Finding("note", f"torch sees no GPU (it is built for {f'CUDA {built}' if built else 'CPUs'})", cure)
    else:
        yield Finding("note", "no GPU: the demo runs, larger models need one")
    if "models" in found:
        yield Finding("ok", f"memtrans_fairseq registers {', '.join(found['models'])}")
    else:
        yield Finding(
            "problem", f"import memtrans_fairseq fails: {said[-1]}", f"mend what is named above first; else {SETUP}"
        )


def probe() -> None:
    """Print what torch sees and which models the plugin registers, a JSON line each, until something fails."""
    import torch

    seen = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    gpus = [(gpu.name, gpu.total_memory) for gpu in seen]
    print(json.dumps({"torch": {"cuda": torch.version.cuda, "gpus": gpus}}), flush=True)

    import memtrans_fairseq  # noqa: F401

    from fairseq.models import MODEL_REGISTRY

    ours = [name for name, model in MODEL_REGISTRY.items() if model.__module__.startswith("memtrans_fairseq.")]
    print(json.dumps({"models": sorted(ours)}), flush=True)


def gpus() -> Iterator[Finding]:
    """The driver's own view, and whether runs can share a GPU without taking turns."""
    if not shutil.which("nvidia-smi"):
        return
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.used,memory.total", "--format=csv,noheader"]
    ran = subprocess.run(query, capture_output=True, text=True, timeout=30)
    if ran.returncode:
        yield Finding("note", f"nvidia-smi fails: {(ran.stdout + ran.stderr).strip()}", "mend the NVIDIA driver")
        return
    for line in ran.stdout.splitlines():
        name, driver, used, total = (part.strip() for part in line.split(","))
        yield Finding("ok", f"{name}, driver {driver}, {used} of {total} in use")
    names = (path.read_text(errors="replace").strip() for path in Path("/proc").glob("[0-9]*/comm"))
    if any(name.startswith("nvidia-cuda-mps") for name in _readable(names)):
        yield Finding("ok", "CUDA MPS is running: runs that share a GPU do not take turns")
    else:
        yield Finding("note", "CUDA MPS is not running: runs that share a GPU take turns", "nvidia-cuda-mps-control -d")


def machine() -> Iterator[Finding]:
    """Processors and memory."""
    yield Finding("ok", f"{len(os.sched_getaffinity(0))} CPU cores")
    free = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    if free:
        size = int(free[1]) * 1024
        few = size < MEMORY
        yield Finding(
            "note" if few else "ok", f"{size / 1e9:.1f} GB of memory free", "end other programs" if few else ""
        )


def disk() -> Iterator[Finding]:
    """Room where the harness writes."""
    for name in ("data", "runs"):
        folder = ROOT / name
        existing = folder if folder.exists() else ROOT
        free = shutil.disk_usage(existing).free
        if not os.access(existing, os.W_OK):
            yield Finding("problem", f"{name}/ cannot be written", f"give yourself the right to write in {existing}")
        elif free < DISK:
            remedy = f"make room, or give another folder: paths.{name}=..."
            yield Finding("problem", f"{free / 1e9:.1f} GB free for {name}/, the demo wants {DISK / 1e9:.0f}", remedy)
        else:
            yield Finding("ok", f"{free / 1e9:,.0f} GB free for {name}/")


def locks() -> Iterator[Finding]:
    """Whether processes, also of other hosts, are kept from doing the same work where the harness writes."""
    for name in ("data", "runs"):
        folder = ROOT / name if (ROOT / name).exists() else ROOT
        if not os.access(folder, os.W_OK):  # which `disk` has told
            continue
        kind, _ = mount_of(folder)
        if trouble := trouble_with_locks(folder):
            remedy = "mount it with locks for all hosts; until then start no corpus or run from two hosts at once"
            yield Finding("note", f"locks do not work in {name}/, on {kind}: {trouble}", remedy)
        else:
            yield Finding("ok", f"locks work in {name}/, on {kind}")


def slurm() -> Iterator[Finding]:
    """Whether there is a Slurm that answers, and its partitions."""
    if not shutil.which("sinfo"):
        yield Finding("ok", "no Slurm here (no sinfo): sweeps run on this machine, launcher=local")
        return
    remedy = (
        "look at `systemctl status slurmctld` on its host, or ask who runs the cluster; launcher=local works without"
    )
    try:
        ran = subprocess.run(
            ["sinfo", "--noheader", "--format=%R (%D nodes, %a)"], capture_output=True, text=True, timeout=60
        )
    except subprocess.TimeoutExpired:
        yield Finding("note", "Slurm does not answer: sinfo takes more than a minute", remedy)
        return
    if ran.returncode:
        said = (ran.stderr.strip().splitlines() or ["it said nothing"])[-1]
        yield Finding("note", f"Slurm does not answer: {said}", remedy)
    else:
        yield Finding("ok", f"Slurm answers: {', '.join(ran.stdout.split(chr(10))[:-1]) or 'no partition'}")


def code() -> Iterator[Finding]:
    """The git commit, without which no record is written."""
    try:
        from memtrans.worker import commit
    except ImportError as error:
        yield Finding("note", f"the harness cannot be imported: {error}", "mend what is named above first")
        return
    try:
        yield Finding("ok", f"code at commit {commit()}")
    except Exception as error:  # the harness's own error, which says what to do
        what, _, remedy = str(error).partition(": ")
        yield Finding("problem", what, remedy)


def mirror() -> Iterator[Finding]:
    """What MEMTRANS_MIRROR holds of the published corpora, by the files' names and sizes."""
    if not (named := os.environ.get("MEMTRANS_MIRROR")):
        yield Finding("ok", "MEMTRANS_MIRROR is not set: corpora come from the network")
        return
    if not (root := Path(named)).is_dir():
        yield Finding(
            "note", f"MEMTRANS_MIRROR={root} is no folder", "set it to one that holds corpus files, or unset it"
        )
        return
    import yaml

    held = []
    for path in sorted((ROOT / "configs" / "corpus").glob("*.yaml")):
        corpus = yaml.safe_load(path.read_text(encoding="utf-8"))
        files = corpus.get("files", {})
        there = sum(
            any(_size(root / folder / name) == file["bytes"] for folder in (file.get("mirror", ""), corpus["name"], ""))
            for name, file in files.items()
        )
        held += [f"{there} of {len(files)} files of {corpus['name']}"] if files else []
    yield Finding("ok", f"MEMTRANS_MIRROR={root} holds {', '.join(held)}")


def corpora() -> Iterator[Finding]:
    """Prepared corpora."""
    found = [
        json.loads(path.read_text(encoding="utf-8")) for path in sorted(ROOT.glob("data/prepared/*/manifest.json"))
    ]
    ready = [f"{manifest['corpus']} ({_size_of(manifest['splits']['train'])})" for manifest in found]
    yield Finding("ok", f"prepared: {', '.join(ready) or 'no corpus yet; scripts.prepare or the first run does it'}")


def _size_of(split: dict) -> str:
    return f"{split['pairs']:,} pairs" if "pairs" in split else f"{split['tokens']:,} tokens"


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def _readable(texts: Iterator[str]) -> Iterator[str]:
    """Those that can be read: a process may end while one looks."""
    while True:
        try:
            yield next(texts)
        except StopIteration:
            return
        except OSError:
            continue


def main() -> None:
    """Print all findings; exit status 0 if the demo could run, 1 otherwise."""
    problems = 0
    for finding in examine():
        problems += finding.state == "problem"
        print(f"{finding.state:<8} {finding.what}", flush=True)
        if finding.remedy:
            print(f"{'':<8}   to mend it: {finding.remedy}")
    print(
        f"{problems} problem{'s' * (problems > 1)}: mend them, then `make doctor` again"
        if problems
        else "make demo can run"
    )
    sys.exit(1 if problems else 0)
