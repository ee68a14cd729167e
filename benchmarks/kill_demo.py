"""`make demo`, killed again and again, against `make demo` left alone.

    python benchmarks/kill_demo.py KILLS [SEED]

In a copy of the project (a git clone in a temporary folder), the whole process group of `make demo` is ended with
SIGKILL at a random moment, KILLS times, each time continued by the same command; then the command runs to its end. The
records and translations must be those of an undisturbed run: scores, updates, tokens, parameters, hypotheses byte by
byte. Only speeds may differ. Prints a Markdown table: when it was killed, in what state, what came of it.
"""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LASTING = ("run", "label", "scores", "updates", "epochs", "tokens", "parameters", "checkpoint", "config")
RECORDS = 8  # of a finished demo


def main() -> None:
    kills, seed = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "clone"
        subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
        (clone / ".venv").symlink_to(ROOT / ".venv")  # setting up is not what is measured
        start = time.monotonic()
        if status := demo(clone):
            sys.exit(f"make demo failed by itself, with status {status}")
        seconds = time.monotonic() - start
        expected = outcome(clone)
        print((clone / "runs/demo/TABLES.md").read_text())
        print(f"Undisturbed: {seconds:.0f} s. Now {kills} kills, seed {seed}.\n")
        print("| kill | after (s) | state |\n|---:|---:|---|", flush=True)
        start_anew(clone)
        draw, kill = random.Random(seed), 0
        while kill < kills:
            wait = draw.uniform(1, seconds / 3)
            state = demo(clone, wait)
            if state == 0:  # it came to its end before the moment came
                check(clone, expected)
                start_anew(clone)
                continue
            kill += 1
            print(f"| {kill} | {wait:.1f} | {state} |", flush=True)
        if status := demo(clone):
            sys.exit(f"the continued demo failed, with status {status}")
        check(clone, expected)


def check(clone: Path, expected: dict) -> None:
    """End the whole with an error if the finished demo differs from the undisturbed one."""
    if outcome(clone) != expected:
        sys.exit("records or translations DIFFER from those of the undisturbed run")
    print("\nFinished: records and translations are those of the undisturbed run.\n", flush=True)


def start_anew(clone: Path) -> None:
    shutil.rmtree(clone / "runs")
    shutil.rmtree(clone / "data/prepared")


def demo(clone: Path, wait: float | None = None) -> int | str:
    """Run `make demo` to its end, or kill it after `wait` seconds. Returns its status, or what it was doing."""
    log = clone.parent / "demo.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["make", "demo", "--assume-old=.venv/.installed"],
            cwd=clone,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            return process.wait(wait)
        except subprocess.TimeoutExpired:
            state = describe(clone, log)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return state


def describe(clone: Path, log: Path) -> str:
    """Where the demo stands: steps of the preparation, or how many records and how far each unfinished run is."""
    records = len(list((clone / "runs/demo/records").glob("*.json")))
    running = []
    for run in sorted(clone.glob("runs/*/log.txt")):
        if not (clone / f"runs/demo/records/{run.parent.name}.json").exists():
            updates = re.findall(r'"num_updates": "(\d+)"', run.read_text(errors="replace"))
            running.append(f"update {updates[-1]}" if updates else "starting")
    lines = log.read_text(errors="replace").strip().splitlines()
    doing = ", ".join(running) if running else (lines[-1] if lines else "nothing said yet")
    return f"{records} of {RECORDS} records; {doing}"


def outcome(clone: Path) -> dict:
    """All that must not depend on being killed."""
    found = {}
    for path in sorted((clone / "runs/demo/records").glob("*.json")):
        record = json.loads(path.read_text())
        found[path.name] = {key: record[key] for key in LASTING}
        if kept := record.get("hypotheses"):  # a language model leaves none
            found[kept["file"]] = (clone / "runs/demo" / kept["file"]).read_bytes()
    return found


if __name__ == "__main__":
    main()
