"""From a sweep, or one composed config, to finished records: plan, prepare, run what is missing."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from omegaconf import DictConfig

from memtrans.configuration import CONFIGS, compose
from memtrans.corpora import prepare
from memtrans.errors import UserError, did_you_mean
from memtrans.launch import Failure, launch
from memtrans.runs import Run, plan_run
from memtrans.sweeps_spec import SweepRow, SweepSpec, load_sweeps

NOT_FOR_RUNS = ("sweep", "jobs", "plan")  # settings of the sweep command itself


def find_sweep(name: str) -> SweepSpec:
    """Raises UserError, with the near names, if there is no such sweep."""
    sweeps = load_sweeps(CONFIGS)
    if name not in sweeps:
        raise UserError(f"sweep={name}: no such sweep in configs/sweep; {did_you_mean(name, sweeps)}")
    return sweeps[name]


def row_overrides(sweep: SweepSpec, row: SweepRow, seed: int, further: Iterable[str]) -> list[str]:
    """What `scripts.train` would be told for this row and seed. `further` overrides come last, so they win."""
    overrides = [f"corpus={sweep.corpus}", f"size={sweep.size}", f"protocol={sweep.protocol}", f"seed={seed}"]
    overrides += [f"variant={row.variant}", f'label="{row.label}"']
    if row.memory_tokens is not None:
        overrides.append(f"model.memory_tokens={row.memory_tokens}")
    return [*overrides, *row.overrides, *further]


def plan_sweep(sweep: SweepSpec, further: Sequence[str]) -> list[DictConfig]:
    """The composed config of every row and seed, seed by seed, so that an early stop leaves whole comparisons."""
    further = [override for override in further if override.lstrip("+").partition("=")[0] not in NOT_FOR_RUNS]
    return [
        compose(row_overrides(sweep, row, seed, further)) for seed in _seeds(sweep, further) for row in sweep.rows
    ]


def _seeds(sweep: SweepSpec, further: Iterable[str]) -> tuple[int, ...]:
    """A seed on the command line stands instead of the sweep's seeds: `seed=1`, or `seed=1,2`."""
    given = [override.partition("=")[2] for override in further if override.startswith("seed=")]
    if not given:
        return sweep.seeds
    try:
        return tuple(int(seed) for seed in given[-1].split(","))
    except ValueError:
        raise UserError(f"seed={given[-1]}: expected whole numbers, such as seed=1 or seed=1,2,3") from None


def plan_runs(configs: Iterable[DictConfig]) -> list[Run]:
    """The runs of composed configs; their corpora are prepared first, each once."""
    return [plan_run(config, prepare(config.corpus, Path(config.paths.data))) for config in configs]


def run_missing(runs: Sequence[Run], jobs: int | None, runs_per_gpu: int) -> list[Failure]:
    """Run what has no record yet. Returns the failures."""
    missing = [run for run in runs if run.record() is None]
    if not missing:
        return []
    gpus = _gpus()
    at_once = jobs or (gpus * runs_per_gpu if gpus else len(os.sched_getaffinity(0)))
    return launch(missing, min(at_once, len(missing)), gpus)


def _gpus() -> int:
    import torch  # only when something is to run: it takes seconds

    return torch.cuda.device_count()
