"""End what the cluster has of the runs: `python -m scripts.cancel`, or `... sweep=demo` for a table's rows alone.

What trains saves itself first. Takes the overrides that `scripts.sweep` took; that command submits it again.
"""

from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from memtrans.cluster import slurm
from memtrans.cluster.submissions import jobs_of
from memtrans.configuration import command
from memtrans.sweeping import runs_meant


@command
def main(config: DictConfig) -> None:
    sweep = config.sweep.name if "sweep" in config else None
    hashes = {run.hash for run in runs_meant(config, HydraConfig.get().overrides.task)}
    if jobs := jobs_of(Path(config.paths.runs), slurm.queued(), sweep, hashes):
        slurm.cancel(jobs)
    print(f"cancelled: {', '.join(jobs) or 'nothing, as there are no jobs'}")


if __name__ == "__main__":
    main()
