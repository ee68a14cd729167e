"""Stopped and continued on a GPU: is it the same training, up to what the GPU itself adds?

    python benchmarks/resume.py [--stops 3] [HYDRA OVERRIDES of scripts.train ...]

One run is trained and scored three times side by side: twice left alone, and once stopped by SIGUSR1 at `--stops`
moments spread over its updates, each time continued by the same command. Atomic additions on a GPU make two trainings
left alone differ; that difference is the noise which the stopped one is held against. Prints a Markdown table.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from memtrans.configuration import compose  # noqa: E402
from memtrans.errors import UserError, main_guard  # noqa: E402
from memtrans.runlog import last_error, read_progress  # noqa: E402
from memtrans.runs import Run  # noqa: E402
from memtrans.stops import STOPPED  # noqa: E402
from memtrans.sweeping import plan_runs  # noqa: E402
from memtrans.tracking import metrics  # noqa: E402

COPIES = {"alone": False, "alone, again": False, "stopped": True}


@main_guard
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stops", type=int, default=3)
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(len(COPIES)) as pool:
        runs = [_copy(Path(folder) / str(number), options.overrides) for number in range(len(COPIES))]
        stops = [options.stops if stopped else 0 for stopped in COPIES.values()]
        stopped_at = list(pool.map(train, runs, stops))[-1]
        print(f"{runs[0].name}: stopped after updates {', '.join(map(str, stopped_at))}\n")
        values = [outcome(run) for run in runs]
        print(f"| | {' | '.join(COPIES)} | noise | stopped, difference |\n|---|{'---:|' * (len(COPIES) + 2)}")
        for name in values[0]:
            alone, again, stopped = (value[name] for value in values)
            differences = " | ".join(f"{value - alone:+.4f}" for value in (again, stopped))
            print(f"| {name} | {alone:.4f} | {again:.4f} | {stopped:.4f} | {differences} |")


def _copy(folder: Path, overrides: list[str]) -> Run:
    (run,) = plan_runs([compose([*overrides, f"paths.runs={folder / 'runs'}", f"paths.results={folder / 'results'}"])])
    run.write()
    return run


def train(run: Run, stops: int) -> list[int]:
    """Train and score a run, stopped as often as asked; after which updates it was."""
    moments = [(number + 1) / (stops + 1) for number in range(stops)]
    stopped_at = []
    while True:
        with run.log.open("ab") as log:
            environment = os.environ | {"PYTHONUNBUFFERED": "1"}
            process = subprocess.Popen(
                [sys.executable, "-m", "memtrans.worker", str(run.folder)], stdout=log, stderr=log, env=environment
            )
        while moments and process.poll() is None:
            if (progress := read_progress(run.log, run.identity["train"])) and progress.fraction >= moments[0]:
                process.send_signal(signal.SIGUSR1)
                stopped_at.append(progress.update)
                moments.pop(0)
                break
            time.sleep(0.05)
        if (status := process.wait()) == 0:
            return stopped_at
        if status != STOPPED:
            raise UserError(f"{run.name} failed: {last_error(run.log)}")


def outcome(run: Run) -> dict[str, float]:
    """The last losses of the training, in bits per token, and the scores."""
    lines = metrics.read(run.metrics)
    losses = {line["part"]: line["loss"] for line in lines if "loss" in line}
    record = run.record()
    assert record is not None
    scores = {f"{score.metric}, {score.split}": score.value for score in record.scores[:1]}
    named = {"train_inner": "training loss, last 20 updates", "valid": "validation loss"}
    return {text: losses[part] for part, text in named.items() if part in losses} | scores


if __name__ == "__main__":
    main()
