"""Train and score one run: `python -m scripts.train corpus=multi30k size=iwslt variant=mem_transformer seed=1`.

The same command continues a run that was stopped, and only shows the result of one that has finished. With `-m`,
Hydra's multirun: `python -m scripts.train -m variant=transformer,mem_transformer seed=1,2,3`. With `launcher=slurm` the
run is submitted as jobs; with `-m launcher=slurm` Hydra submits an array, and waits for it.
"""

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from memtrans.configuration import command
from memtrans.errors import UserError
from memtrans.sweeping import plan_runs, run_missing


@command
def main(config: DictConfig) -> None:
    for setting in ("sweep", "seeds", "jobs", "plan"):
        if config.get(setting):
            raise UserError(f"{setting}: a setting of scripts.sweep, which runs tables; scripts.train makes one run")
    submits = config.launcher.name == "slurm" and HydraConfig.get().mode != RunMode.MULTIRUN
    if submits and config.launcher.prepare == "job":
        from memtrans.cluster.submit import submit_command

        submit_command("scripts.train", HydraConfig.get().overrides.task, config)
        return
    (run,) = plan_runs([config])
    if submits and run.record() is None:
        from memtrans.cluster.submit import submit

        submit([run], config.launcher)
        return
    if failures := run_missing([run], jobs=1, runs_per_gpu=1):
        raise UserError(f"{run.name} failed: {failures[0].reason} (log: {run.log})")
    record = run.record()
    assert record is not None
    print(f"{run.name}: {run.results / 'records' / run.hash}.json")
    for score in record.scores:
        print(f"  {score.split}: {score.metric} {score.value:.2f} ({score.evidence})")


if __name__ == "__main__":
    main()
