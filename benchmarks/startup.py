"""How long commands take that only say something: `python benchmarks/startup.py`, seconds, best and median of five.

The commands run in turn, round by round, so that whatever else the machine does falls on all of them alike.
"""

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ROUNDS = 5


def commands() -> dict[str, list[str]]:
    """What to run, by the name to show: the help of every entry point, and the tables."""
    named = {}
    for path in sorted((ROOT / "scripts").glob("[!_]*.py")):
        named[f"python -m scripts.{path.stem} --help"] = [sys.executable, "-m", f"scripts.{path.stem}", "--help"]
    named["memtrans-fairseq --help"] = [str(Path(sys.executable).with_name("memtrans-fairseq")), "--help"]
    named["python -m scripts.tabulate --check"] = [sys.executable, "-m", "scripts.tabulate", "--check"]
    return named


def seconds(command: list[str]) -> float:
    """Wall-clock seconds of one run. Raises CalledProcessError if it fails."""
    start = time.perf_counter()
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    named = commands()
    times: dict[str, list[float]] = {name: [] for name in named}
    for _ in range(ROUNDS):
        for name, command in named.items():
            times[name].append(seconds(command))
    print(f"{os.cpu_count()} CPU cores, load {os.getloadavg()[0]:.1f}, Python {sys.version.split()[0]}\n")
    print(f"| command | best of {ROUNDS} (s) | median (s) |\n|---|---:|---:|")
    for name, measured in times.items():
        print(f"| `{name}` | {min(measured):.2f} | {statistics.median(measured):.2f} |")


if __name__ == "__main__":
    main()
