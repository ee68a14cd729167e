"""Run the rows of a table that have no record yet: `python -m scripts.sweep sweep=multi30k`.

Further overrides apply to every row (`corpus=multi30k size=iwslt train.lr=1e-3`); `seeds=[1,2]` takes other seeds than
the sweep's; `plan=true` only says what there is to do and what it will cost. Failed rows do not stop the others; they
are listed at the end, and the same command tries them again.
"""

from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from memtrans.configuration import CONFIGS, command
from memtrans.errors import UserError
from memtrans.planning import show_plan
from memtrans.progress import say
from memtrans.sweeping import beyond_limits, plan_runs, plan_sweep, run_missing
from memtrans.sweeps_spec import load_sweeps
from memtrans.tables.show import write_and_show


@command
def main(config: DictConfig) -> None:
    if "sweep" not in config:
        raise UserError("which table? Give sweep=NAME, for example sweep=demo; see configs/sweep")
    sweep = load_sweeps(CONFIGS)[config.sweep.name]
    configs, refused = plan_sweep(sweep, config.seeds or sweep.seeds, HydraConfig.get().overrides.task)
    for label, reason in refused.items():
        say(f"{label}: left out: {reason}")
    if config.plan:
        own = (configs[0].corpus.name, configs[0].size.name) == (sweep.corpus, sweep.size)
        show_plan(sweep.title if own else f"the rows of {sweep.name}", configs, config.jobs)
        _tell(refused)
        return
    runs = plan_runs(configs)
    failures = run_missing(runs, config.jobs, configs[0].size.runs_per_gpu)
    write_and_show(Path(config.paths.results), CONFIGS)
    if failures:
        listed = "; ".join(f"{failure.run.name}: {failure.reason} (log: {failure.run.log})" for failure in failures)
        raise UserError(f"{len(failures)} of {len(runs)} runs failed, the same command tries them again. {listed}")
    _tell(refused)
    if broken := beyond_limits(sweep, runs):
        raise UserError(f"something is broken: {'; '.join(broken)}")


def _tell(refused: dict[str, str]) -> None:
    if refused:
        listed = "; ".join(f"{label}: {reason}" for label, reason in refused.items())
        raise UserError(f"rows that were left out, as their settings cannot work: {listed}")


if __name__ == "__main__":
    main()
