"""Run the rows of a table that have no record yet: `python -m scripts.sweep sweep=multi30k`.

Further overrides apply to every row (`corpus=multi30k size=iwslt train.lr=1e-3`); `seeds=[1,2]` takes other seeds than
the sweep's; `plan=true` only says what there is to do and what it will cost. Failed rows do not stop the others; they
are listed at the end, and the same command tries them again.

With `launcher=slurm` the rows become jobs, and the command ends when they are submitted. Called again, it submits those
that have neither a record nor a job, and shows the table when all have a record.
"""

from collections.abc import Sequence
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from memtrans.configuration import CONFIGS, command
from memtrans.errors import UserError
from memtrans.planning import show_plan
from memtrans.progress import say
from memtrans.runs import Run
from memtrans.sweeping import beyond_limits, check_labels, plan_runs, plan_sweep, run_missing
from memtrans.sweeps_spec import load_sweeps
from memtrans.tables.show import write_and_show


@command
def main(config: DictConfig) -> None:
    if "sweep" not in config:
        raise UserError("which table? Give sweep=NAME, for example sweep=demo; see configs/sweep")
    if config.jobs is not None and (type(config.jobs) is not int or config.jobs < 1):
        raise UserError(f"jobs={config.jobs}: expected a whole number of runs side by side, at least 1")
    sweep = load_sweeps(CONFIGS)[config.sweep.name]
    overrides = HydraConfig.get().overrides.task
    configs, refused = plan_sweep(sweep, sweep.seeds if config.seeds is None else config.seeds, overrides)
    for label, reason in refused.items():
        say(f"{label}: left out: {reason}")
    runs: list[Run] = []
    if config.plan:
        own = (configs[0].corpus.name, configs[0].size.name) == (sweep.corpus, sweep.size)
        show_plan(sweep.title if own else f"the rows of {sweep.name}", configs, config.jobs)
    elif config.launcher.name == "slurm" and config.launcher.prepare == "job":
        from memtrans.cluster.submit import submit_command

        submit_command("scripts.sweep", overrides, config)
    else:
        runs = plan_runs(configs)
        check_labels(runs)
        _do(runs, config, configs[0].size.runs_per_gpu)
    if refused:
        listed = "; ".join(f"{label}: {reason}" for label, reason in refused.items())
        raise UserError(f"rows that were left out, as their settings cannot work: {listed}")
    if broken := beyond_limits(sweep, runs):
        raise UserError(f"something is broken: {'; '.join(broken)}")


def _do(runs: Sequence[Run], config: DictConfig, runs_per_gpu: int) -> None:
    if config.launcher.name == "slurm" and any(run.record() is None for run in runs):
        from memtrans.cluster.submit import submit

        submit(runs, config.launcher)
        return
    failures = run_missing(runs, config.jobs, runs_per_gpu)
    write_and_show(Path(config.paths.results), CONFIGS)
    if failures:
        listed = "; ".join(f"{failure.run.name}: {failure.reason} (log: {failure.run.log})" for failure in failures)
        raise UserError(f"{len(failures)} of {len(runs)} runs failed, the same command tries them again. {listed}")


if __name__ == "__main__":
    main()
