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
from memtrans.sweeping import below_floor, plan_runs, plan_sweep, run_missing
from memtrans.sweeps_spec import load_sweeps
from memtrans.tables.show import write_and_show


@command
def main(config: DictConfig) -> None:
    if "sweep" not in config:
        raise UserError("which table? Give sweep=NAME, for example sweep=demo; see configs/sweep")
    sweep = load_sweeps(CONFIGS)[config.sweep.name]
    configs = plan_sweep(sweep, config.seeds or sweep.seeds, HydraConfig.get().overrides.task)
    if config.plan:
        own = (configs[0].corpus.name, configs[0].size.name) == (sweep.corpus, sweep.size)
        show_plan(sweep.title if own else f"the rows of {sweep.name}", configs, config.jobs)
        return
    runs = plan_runs(configs)
    failures = run_missing(runs, config.jobs, configs[0].size.runs_per_gpu)
    write_and_show(Path(config.paths.results), CONFIGS)
    if failures:
        listed = "; ".join(f"{failure.run.name}: {failure.reason} (log: {failure.run.log})" for failure in failures)
        raise UserError(f"{len(failures)} of {len(runs)} runs failed, the same command tries them again. {listed}")
    if weak := below_floor(sweep, runs):
        raise UserError(f"below the floor of {sweep.floor:g} BLEU, so something is broken: {', '.join(weak)}")


if __name__ == "__main__":
    main()
