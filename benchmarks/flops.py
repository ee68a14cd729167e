"""What an update of each row of a sweep costs in arithmetic: floating-point operations, counted from real batches.

    python benchmarks/flops.py sweep=multi30k [--batches 3] [HYDRA OVERRIDES ...]

Matrix products and attention of forward and backward pass (torch.utils.flop_counter), for batches of the training set
on the CPU; everything else is left out. Dropout changes nothing of it. The corpus must be prepared. The last column is
how many updates the baseline could make for the arithmetic of the row's: what equal compute is.
"""

import argparse
import itertools
import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import lm_setting  # noqa: E402
import torch  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from memtrans.configuration import CONFIGS  # noqa: E402
from memtrans.errors import main_guard  # noqa: E402
from memtrans.runs import Run, train_arguments  # noqa: E402
from memtrans.sweeping import plan_runs, plan_sweep  # noqa: E402
from memtrans.sweeps_spec import load_sweeps  # noqa: E402

FILLING = 2  # batches that are not counted: caches and earlier segments are not yet there


@main_guard
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, default=3, help="that are counted, the same for all rows")
    parser.add_argument("sweep", type=lambda text: load_sweeps(CONFIGS)[text.removeprefix("sweep=")])
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_intermixed_args()
    logging.disable(logging.INFO)
    configs, _ = plan_sweep(options.sweep, [1], options.overrides)
    print(
        "| row | GFLOP per batch | to the first row | updates | updates of the first row |\n|---|---:|---:|---:|---:|"
    )
    first = None
    for run in plan_runs(configs):
        found = flops(run, options.batches)
        first = first or found
        updates = run.identity["train"]["max_update"]
        equal = f"{updates * found / first:,.0f}" if updates else "–"
        print(f"| {run.label} | {found / 1e9:,.1f} | {found / first:.3f} | {updates or '–'} | {equal} |", flush=True)


def flops(run: Run, batches: int) -> float:
    """Floating-point operations of forward and backward pass, mean over batches of an epoch."""
    arguments = [*train_arguments(run), "--cpu", "--num-workers", "0"]
    config, task, model, criterion = lm_setting.set_up([a for a in arguments if a not in ("--fp16", "--bf16", "--amp")])
    from fairseq.trainer import Trainer

    trainer = Trainer(config, task, model, criterion)
    samples = trainer.get_train_iterator(epoch=1).next_epoch_itr(shuffle=True)
    trainer.begin_epoch(1)

    def train(number: int) -> None:
        for sample in itertools.islice(samples, number):
            task.train_step(sample, model, criterion, trainer.optimizer, 0)
            trainer.optimizer.zero_grad()

    train(FILLING)
    with FlopCounterMode(display=False) as counter:
        train(batches)
    return counter.get_total_flops() / batches


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
