"""The same training? Losses of a run as it trains by default and on the plain path, on the same batches.

    python benchmarks/loss_curves.py corpus=multi30k train.max_tokens=4096 train.warmup_updates=300 [...] \\
        [--updates 1000] [--seeds 1 2] [--plot FILE.svg]

The arguments with "=" are the harness'; the size is base if they name no other. Each run is a process of its own, all
side by side, spread over the GPUs:

- graphs: as the sizes base and small train by themselves: packed batches, the model with its loss compiled and run as
  CUDA graphs, amp, a fused Adam;
- compiled: the same without CUDA graphs;
- plain: the same sentences in the same batches, padded, through fairseq's own layers and criterion, nothing compiled,
  float32, fairseq's Adam.

Each draws its own dropout. Prints a Markdown table of losses (label-smoothed, bits per token; training: mean of the
updates since the row before) and writes a plot of them. Runs stay in runs/loss_curves, so that the same command only
trains what is missing.
"""

import argparse
import os
import subprocess
import sys
from itertools import cycle
from pathlib import Path
from statistics import mean

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from memtrans.curves import Curve  # noqa: E402
from memtrans.errors import UserError, main_guard  # noqa: E402
from memtrans.runlog import last_error  # noqa: E402
from memtrans.runs import Run  # noqa: E402

PATHS = {
    "graphs": ["++train.compile=true", "++train.cuda_graphs=true"],
    "compiled": ["++train.compile=true", "++train.cuda_graphs=false"],
    "plain": ["++train.compile=false", "train.precision=fp32", "train.optimizer=adam"],
}
ROWS = 10  # of the table
Curves = dict[tuple[str, int], Curve]  # by path and seed


@main_guard
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="NAME=VALUE", help="of the harness")
    parser.add_argument("--updates", type=int, default=1000)
    parser.add_argument("--paths", choices=PATHS, nargs="+", default=list(PATHS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--plot", type=Path, metavar="FILE.svg")
    options = parser.parse_args()
    runs = {(path, seed): plan(path, seed, options) for path in options.paths for seed in options.seeds}
    train(runs)
    curves = {key: curve for key, run in runs.items() if (curve := Curve.of(run))}
    print(table(curves))
    if options.plot:
        plot(curves, options.plot)


def plan(path: str, seed: int, options: argparse.Namespace) -> Run:
    from memtrans.configuration import compose
    from memtrans.sweeping import plan_runs

    defaults = {"size": "base", "protocol": "full", "paths.runs": "runs/loss_curves", "train.warmup_updates": "4000"}
    given = dict(override.split("=", 1) for override in options.overrides)
    length = {"train.max_update": str(options.updates), "train.save_interval_updates": "0", "seed": str(seed)}
    overrides = [f"{key}={value}" for key, value in (defaults | given | length).items()]
    (run,) = plan_runs([compose([*overrides, *PATHS[path]])])
    run.write()
    return run


def train(runs: dict[tuple[str, int], Run]) -> None:
    """What is not trained yet. Raises UserError if a process fails."""
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(torch.cuda.device_count()))))
    gpus = cycle(visible.split(","))
    processes = {}
    for (path, _), run in runs.items():
        with run.log.open("a") as log:
            command = [sys.executable, __file__, "--child", path, str(run.folder), "train"]
            environment = os.environ | {"CUDA_VISIBLE_DEVICES": next(gpus)}
            processes[run.hash] = subprocess.Popen(command, stdout=log, stderr=log, env=environment), run
    try:
        for process, run in processes.values():
            if process.wait():
                raise UserError(f"{run.name}: {last_error(run.log)} (log: {run.log})")
    finally:
        for process, _ in processes.values():
            process.terminate()


def child(path: str) -> None:
    from memtrans import worker

    if path == "plain":
        import memtrans_fairseq  # noqa: F401
        from memtrans_fairseq.packing.batches import PackedPairs

        PackedPairs.collater = lambda self, samples: self.pairs.collater(samples)  # type: ignore[method-assign]
    worker.main()


def table(curves: Curves) -> str:
    """A column for each run; the last row is the last validation."""
    points = [list(curve.training.by_update.items()) for curve in curves.values()]
    if len({tuple(update for update, _ in column) for column in points}) > 1:
        raise UserError("the runs have not logged the same updates: remove runs/loss_curves and train again")
    span = max(1, len(points[0]) // ROWS)
    lines = ["| update | " + " | ".join(f"{path}, seed {seed}" for path, seed in curves) + " |"]
    lines.append("|---:|" + "---:|" * len(curves))
    for end in range(span, len(points[0]) + 1, span):
        losses = (mean(loss for _, loss in column[end - span : end]) for column in points)
        lines.append(f"| {points[0][end - 1][0]} | " + " | ".join(f"{loss:.3f}" for loss in losses) + " |")
    last = (curve.validation.losses[-1] for curve in curves.values())
    return "\n".join([*lines, "| validation | " + " | ".join(f"{loss:.3f}" for loss in last) + " |"])


def plot(curves: Curves, path: Path) -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for (name, seed), curve in curves.items():
        losses = curve.training
        style = {"color": f"C{list(PATHS).index(name)}", "alpha": 0.8}
        axes.plot(losses.updates, losses.losses, label=f"{name}, seed {seed}", linewidth=1, **style)
    axes.set(xlabel="update", ylabel="training loss, bits per token", yscale="log")
    axes.legend()
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        sys.argv[1:] = sys.argv[2:]
        child(sys.argv.pop(1))
    else:
        main()
