"""From a sweep, or one composed config, to finished records: plan, prepare, run what is missing."""

import copy
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from memtrans.configuration import CONFIGS, check_fit, check_values, compose
from memtrans.corpora import Prepared, foresee, prepare
from memtrans.errors import UserError
from memtrans.launch import Failure, count_gpus, launch
from memtrans.progress import say
from memtrans.runs import Run, check_device, plan_run
from memtrans.sweeps_spec import SweepRow, SweepSpec, load_sweeps

DECIDED_BY_ROWS = ("variant", "label", "model.memory_tokens")
NOT_FOR_RUNS = ("sweep", "seeds", "jobs", "plan")  # settings of the sweep command itself


def row_overrides(sweep: SweepSpec, row: SweepRow, seed: int, further: Iterable[str]) -> list[str]:
    """What `scripts.train` would be told for this row and seed. `further` overrides come last, so they win."""
    overrides = [f"corpus={sweep.corpus}", f"size={sweep.size}", f"protocol={sweep.protocol}", f"seed={seed}"]
    overrides += [f"variant={row.variant}", f'label="{row.label}"']
    if row.memory_tokens is not None:
        overrides.append(f"model.memory_tokens={row.memory_tokens}")
    # Hydra takes a group only once, so of two overrides of the same key the last stands
    return list({o.partition("=")[0]: o for o in [*overrides, *row.overrides, *further]}.values())


def plan_sweep(
    sweep: SweepSpec, seeds: Sequence[int], further: Iterable[str]
) -> tuple[list[DictConfig], dict[str, str]]:
    """The composed config of every row and seed, and why rows, by label, have none.

    Seed by seed, so that an early stop leaves whole comparisons. Raises UserError for what are no seeds, and if no row
    can be composed.
    """
    given: Any = OmegaConf.to_object(seeds) if OmegaConf.is_config(seeds) else seeds
    try:
        sweep = replace(sweep, seeds=given)
    except UserError as error:
        raise UserError(f"{error}; give them as seeds=[1,2]") from None
    kept = [override for override in further if override.partition("=")[0] not in NOT_FOR_RUNS]
    for override in kept:
        key, _, value = override.partition("=")
        if key == "seed":
            raise UserError(f"{override}: a sweep has several; give seeds=[{value.strip('[]')}]")
        if key.lstrip("+") in {*DECIDED_BY_ROWS, *_decided_models(sweep)}:
            raise UserError(f"{override}: the sweep's rows decide that; use scripts.train, or a sweep file of your own")
    composed: list[DictConfig] = []
    refused: dict[str, str] = {}
    for row in sweep.rows:
        overrides = row_overrides(sweep, row, sweep.seeds[0], kept)
        try:
            config = compose(overrides)
            check_fit(config)
            check_values(config, overrides)
        except UserError as error:
            refused[row.label] = str(error)
        else:
            composed.append(config)
    if not composed:
        raise UserError(next(iter(refused.values())))
    return [_with_seed(config, seed) for seed in sweep.seeds for config in composed], refused


def _with_seed(config: DictConfig, seed: int) -> DictConfig:
    """A copy, which takes a tenth of the time of composing it again."""
    changed = copy.deepcopy(config)
    changed.seed = seed
    return changed


def _decided_models(sweep: SweepSpec) -> set[str]:
    """The options of models in which the rows of a sweep differ by their own overrides."""
    return {key for row in sweep.rows for key in row.own if key.startswith("model.")}


def plan_runs(configs: Iterable[DictConfig]) -> list[Run]:
    """The runs of composed configs; their corpora are prepared first, each once. Raises UserError."""
    configs = list(configs)
    _check_before(configs)
    return _planned(configs, prepare)


def _planned(configs: Sequence[DictConfig], find: Callable[[DictConfig, Path], Prepared]) -> list[Run]:
    """The runs of composed configs on their corpora, each of which is found once: to know it, its files are read."""
    corpora: dict[str, Prepared] = {}
    runs = []
    for config in configs:
        key = OmegaConf.to_yaml(config.corpus)
        if key not in corpora:
            corpora[key] = find(config.corpus, Path(config.paths.data))
        runs.append(plan_run(config, corpora[key]))
    return runs


def _check_before(configs: Sequence[DictConfig]) -> None:
    """Refuse what cannot work before a corpus is prepared, which may take hours. Raises UserError."""
    for config in configs:
        check_fit(config)
    runs = _planned(configs, foresee)
    for folder in {folder for run in runs for folder in (run.runs, run.results)}:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{folder}: not a folder for runs or results ({error.strerror}); give another") from None
        if not os.access(folder, os.W_OK):  # results are written last, after days perhaps
            raise UserError(f"{folder}: not a folder for runs or results (you may not write there); give another")
    here = [run for run, config in zip(runs, configs, strict=True) if config.launcher.name == "local"]
    missing = [run for run in here if run.record() is None]
    if missing and all(run.identity["train"]["precision"] != "fp32" for run in missing):
        check_device(missing[0], count_gpus() > 0)


def runs_meant(config: DictConfig, overrides: Iterable[str]) -> list[Run]:
    """The runs of `config`'s sweep and seeds, in the table's order; without a sweep, all in the folder of runs.

    Nothing is prepared, and rows that cannot work are left out.
    """
    if "sweep" not in config:
        return list(_runs_of(Path(config.paths.runs)))
    sweep = load_sweeps(CONFIGS)[config.sweep.name]
    configs, _ = plan_sweep(sweep, sweep.seeds if config.seeds is None else config.seeds, overrides)
    return _planned(configs, foresee)


def _runs_of(folder: Path) -> Iterator[Run]:
    """All that lie there. One that cannot be read is told in a line."""
    for path in sorted(folder.glob("*/run.json")):
        try:
            yield Run.read(path.parent)
        except UserError as error:
            say(f"left out: {error}")


def run_missing(runs: Sequence[Run], jobs: int | None, runs_per_gpu: int) -> list[Failure]:
    """Run on this machine what has no record yet. Returns the failures."""
    missing = [run for run in runs if run.record() is None]
    if not missing:
        return []
    gpus = count_gpus()
    return launch(missing, places(jobs, gpus, runs_per_gpu, missing[0].gpus), gpus)


def places(jobs: int | None, gpus: int, runs_per_gpu: int, gpus_per_run: int = 1) -> int:
    """How many runs there is room for side by side: `jobs`, or what the machine suggests. Raises UserError.

    Without GPUs, a run on several is one in several processes.
    """
    if 0 < gpus < gpus_per_run:
        raise UserError(f"launcher.gpus={gpus_per_run}: this machine has {gpus}")
    if gpus_per_run > 1:
        return jobs or max(1, (gpus or len(os.sched_getaffinity(0))) // gpus_per_run)
    return jobs or gpus * runs_per_gpu or len(os.sched_getaffinity(0))


def check_labels(runs: Iterable[Run]) -> None:
    """Refuse rows whose runs are recorded under other labels, by which tables go. Raises UserError.

    A label is no part of what a run is, so that it may have been trained under any.
    """
    for run in runs:
        record = run.record()
        if record and record.label != run.label:
            raise UserError(
                f"{run.record_path}: the run of the row {run.label!r}, recorded as {record.label!r}, so that the table "
                f"would lack it there: write the row's label into that file, or give other results (paths.results=...)"
            )


def beyond_limits(sweep: SweepSpec, runs: Iterable[Run]) -> list[str]:
    """The finished runs whose BLEU is below the sweep's floor or whose perplexity is above its ceiling, with both."""
    found = []
    for run in runs:
        if (record := run.record()) is None:
            continue
        metric, value = record.headline.metric, record.headline.value
        if metric == "bleu" and sweep.floor is not None and value < sweep.floor:
            found.append(f"{run.name} with BLEU {value:.2f}, below {sweep.floor:g}")
        if metric == "perplexity" and sweep.ceiling is not None and value > sweep.ceiling:
            found.append(f"{run.name} with perplexity {value:.2f}, above {sweep.ceiling:g}")
    return found
