"""What a sweep will download, train and cost, told before it starts. Every number about the future is an estimate."""

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from memtrans.corpora import foresee, pending_downloads
from memtrans.errors import UserError
from memtrans.jobs import Job
from memtrans.launch import runs_per_device
from memtrans.runlog import read_progress
from memtrans.runs import Run, plan_run
from memtrans.sweeping import places
from memtrans.warmup import Place, find_device, rates

CORE = 2e10  # floating-point operations per second of one CPU core on small models
CHEAP = 3e13  # operations of a whole sweep up to which a warm-up is not worth its time: 25 minutes of one core


@dataclass
class Row:
    """The runs of one setting, one a seed, and what each takes."""

    config: DictConfig
    tokens: float  # target tokens that a run sees
    how: str  # where that number comes from
    vocabulary: int  # entries of the dictionary
    runs: list[Run] = field(default_factory=list)
    missing: list[Run] = field(default_factory=list)  # those without a record
    rate: float = math.nan  # target tokens per second of a run

    @property
    def job(self) -> Job:
        return self.runs[0].job

    @property
    def tokens_left(self) -> list[float]:
        """Of each missing run."""
        return [self.tokens * _left(run) for run in self.missing]

    @property
    def hours(self) -> list[float]:
        """Of each missing run."""
        return [tokens / self.rate / 3600 for tokens in self.tokens_left]

    @property
    def operations_per_token(self) -> float:
        """The usual 6 per weight."""
        return 6 * self.job.weights(self.config.model, self.vocabulary)


def show_plan(title: str, configs: Sequence[DictConfig], jobs: int | None, console: Console | None = None) -> None:
    """Print the plan of a sweep: its rows, what must be downloaded, what training costs. No run is started.

    `configs` are those of all rows and seeds; `jobs` is the number of runs side by side, None what the machine
    suggests. Unless the sweep is small, a short warm-up tells the speed; the runs' folder keeps its results. Raises
    UserError for settings that cannot work.
    """
    console = console or Console()
    rows = _rows(configs)
    waiting = [row for row in rows if row.missing]
    runs, missing = sum(len(row.runs) for row in rows), sum(len(row.missing) for row in rows)
    lines = [f"Runs: {runs} in {len(rows)} rows; {runs - missing} finished, {missing} to run.", _downloads(configs)]
    share = None  # GPUs of a run
    if waiting:
        place, at_once, how = _time(waiting, jobs)
        share = place.share if place.gpus else None
        lines += [_cost(waiting, place, at_once), f"How: {waiting[0].how}; {how}."]
        if not place.gpus and (precision := configs[0].train.precision) != "fp32":
            lines.append(f"Training will need a GPU, and there is none here: train.precision={precision}.")
    console.print(_table(title, rows, share))
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _rows(configs: Iterable[DictConfig]) -> list[Row]:
    rows: dict[str, Row] = {}
    for config in configs:
        corpus = foresee(config.corpus, Path(config.paths.data))
        run = plan_run(config, corpus)
        if run.setting not in rows:
            if "vocabulary" not in corpus.manifest:
                raise UserError(f"the vocabulary of {config.corpus.name} is not known yet: run scripts.prepare first")
            tokens = run.job.training_tokens(config.train, corpus.manifest, generated=config.corpus.kind == "demo")
            rows[run.setting] = Row(config, *tokens, corpus.manifest["vocabulary"])
        rows[run.setting].runs.append(run)
        if run.record() is None:
            rows[run.setting].missing.append(run)
    return list(rows.values())


def wall_hours(hours: Iterable[float], at_once: int) -> float:
    """When the last run ends, if each starts, in order, as soon as one of `at_once` places is free."""
    ends = [0.0] * at_once
    for run in hours:
        ends[ends.index(min(ends))] += run
    return max(ends)


def _time(rows: Sequence[Row], jobs: int | None) -> tuple[Place, int, str]:
    """Set the rate of each row; return where its runs train, how many at once, and where the rates come from."""
    train, launcher, cores = rows[0].config.train, rows[0].config.launcher, len(os.sched_getaffinity(0))
    operations = sum(row.operations_per_token * sum(row.tokens_left) for row in rows)
    cheap = train.precision == "fp32" and operations < CHEAP
    place = Place(f"{cores} CPU cores", 0) if cheap else find_device()
    missing = sum(len(row.missing) for row in rows)
    spread = rows[0].runs[0].gpus if launcher.name == "local" else 1  # what a cluster gives is not this machine's
    at_once = min(missing, places(jobs, place.gpus, rows[0].config.size.runs_per_gpu, spread))
    place.threads = max(1, cores // at_once)
    if cheap:
        for row in rows:
            row.rate = place.threads * CORE / row.operations_per_token
        return place, at_once, f"tokens/s assume {CORE / 1e9:.0f} GFLOP/s a core, as this is too small for a warm-up"
    place.side_by_side = runs_per_device(at_once, place.gpus, spread) if place.gpus else 1
    timed = rows if place.gpus else rows[:1]
    measured = rates([(row.missing[0], row.vocabulary) for row in timed], place)
    for i, row in enumerate(rows):
        row.rate = row.job.fill(row.config.train) * measured[min(i, len(measured) - 1)]
    part = rows[0].job.fill(train)
    fill = f" x {part}" if part < 1 else ""
    how = f"tokens/s are those of a short warm-up on full batches{fill}"
    if place.gpus and spread > 1:
        place.gpus_per_run = spread
        for row in rows:
            row.rate *= spread
        how += f", times the {spread} GPUs of a run"
    if not place.gpus:
        how += ", timed on this CPU: in small batches, the first row only, and the others taken to be as fast"
    elif place.side_by_side > 1:
        how += f", with {place.side_by_side} runs on a GPU, which share its hours"
    if any(row.config.model.get("compile_layers") or row.config.train.get("compile") for row in rows):
        how += ", before models are compiled, which makes them faster"
    return place, at_once, how


def _left(run: Run) -> float:
    """The part of its training that a run still has to do."""
    progress = read_progress(run.log, run.identity["train"])
    return 1 - progress.fraction if progress else 1.0


def _downloads(configs: Iterable[DictConfig]) -> str:
    files: dict[str, int] = {}
    for config in {config.corpus.name: config for config in configs}.values():
        files |= pending_downloads(config.corpus, Path(config.paths.data))
    if not files:
        return "Downloads: nothing."
    listed = ", ".join(f"{name} {decimal(size)}" for name, size in files.items())
    return f"Downloads: {decimal(sum(files.values()))} ({listed})."


def _cost(rows: Sequence[Row], place: Place, at_once: int) -> str:
    hours = [hours for row in rows for hours in row.hours]
    gpus = f"{_number(sum(hours) * place.share)} GPU-hours; " if place.gpus else ""
    device = f"{place.gpus} x {place.device}" if place.gpus else place.device
    wall = duration(wall_hours(hours, at_once))
    return (
        f"Estimated cost of training: {gpus}{wall} on {device}, {at_once} at a time. Preparing and scoring come on top."
    )


def _table(title: str, rows: Sequence[Row], share: float | None) -> Table:
    """`share` is how many GPUs a run has, or what part of one; None on a CPU."""
    first = rows[0].config
    where = f"corpus {first.corpus.name}, size {first.size.name}, protocol {first.protocol.name}"
    table = Table(title=f"Plan: {title}\n{where}", caption="a run's tokens, speed and time are estimates")
    table.add_column("row")
    for column in ("to run", "tokens", "tokens/s", "time", *(["GPU-hours"] if share else [])):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        cells = [f"{len(row.missing)} of {len(row.runs)}", f"{row.tokens / 1e6:,.1f} M"]
        if hours := sum(row.hours):
            cells += [f"{row.rate:,.0f}", duration(hours / len(row.missing)), _number(hours * (share or 1))]
        table.add_row(row.runs[0].label, *cells[: len(table.columns) - 1])
    return table


def duration(hours: float) -> str:
    """Hours in a unit that suits them."""
    if hours < 1 / 60:
        return "under a minute"
    if hours < 2:
        return f"{hours * 60:.0f} min"
    return f"{hours:,.0f} h" if hours < 72 else f"{hours / 24:,.0f} days"


def _number(hours: float) -> str:
    return f"{hours:,.2f}" if hours < 10 else f"{hours:,.0f}"
