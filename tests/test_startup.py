"""Help comes at once: no command imports for it what takes long. Speeds are in benchmarks/startup.py."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
SLOW = {"torch", "fairseq", "scipy", "matplotlib", "wandb", "submitit"}


@pytest.mark.parametrize("script", sorted(path.stem for path in (REPOSITORY / "scripts").glob("[!_]*.py")))
def test_help_imports_nothing_slow(script):
    command = [sys.executable, "-X", "importtime", "-m", f"scripts.{script}", "--help"]
    ran = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert ran.returncode == 0
    assert script in ran.stdout
    imported = set(re.findall(r"^import time:.*\| +(\w+)$", ran.stderr, re.MULTILINE))
    assert "memtrans" in imported
    assert imported & SLOW == set()
