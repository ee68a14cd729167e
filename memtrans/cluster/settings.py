"""From the config group `launcher` to the options of sbatch."""

from typing import Any

from omegaconf import DictConfig, OmegaConf

from memtrans.errors import UserError

# srun does not inherit sbatch's --cpus-per-task from Slurm 22.05 on, but reads this variable
CORES = 'export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"'


def check(launcher: DictConfig) -> None:
    """Refuse settings that cannot work. Raises UserError."""
    for key, least in {
        "gpus": 0,
        "nodes": 1,
        "cpus_per_task": 1,
        "time_min": 1,
        "signal_seconds": 1,
        "at_once": 1,
    }.items():
        if not isinstance(launcher[key], int) or launcher[key] < least:
            raise UserError(f"launcher.{key}={launcher[key]}: expected a whole number of at least {least}")
    if launcher.prepare not in ("here", "job"):
        raise UserError(f"launcher.prepare={launcher.prepare}: expected here or job")
    if launcher.nodes > max(launcher.gpus, 1) or launcher.gpus % launcher.nodes:
        raise UserError(
            f"launcher.gpus={launcher.gpus} launcher.nodes={launcher.nodes}: gpus are those of a run on all its nodes "
            "together, the same number on each"
        )
    if launcher.signal_seconds >= launcher.time_min * 60:
        raise UserError(
            f"launcher.signal_seconds={launcher.signal_seconds}: that is not before the end of "
            f"launcher.time_min={launcher.time_min}"
        )


def options(launcher: DictConfig, name: str, gpus: int = 0, nodes: int = 1, **further: Any) -> dict[str, Any]:
    """submitit's parameters of a job called `name` with a process for each of `gpus`, or one if there are none.

    `further` are options of sbatch that the launcher's own do not name.
    """
    settings: dict[str, Any] = OmegaConf.to_container(launcher, resolve=True)  # type: ignore[assignment]
    chosen = {key: settings[key] for key in ("partition", "account", "qos", "constraint") if settings[key]}
    if settings["mem_gb"]:
        chosen["mem"] = f"{settings['mem_gb']}GB"
    if gpus:
        chosen["gpus_per_node"] = gpus // nodes
    return chosen | {
        "job_name": name,
        "nodes": nodes,
        "ntasks_per_node": max(gpus // nodes, 1),
        "cpus_per_task": settings["cpus_per_task"],
        "array_parallelism": settings["at_once"],
        "time": settings["time_min"],
        "signal_delay_s": settings["signal_seconds"],
        "setup": [CORES, *settings["setup"]],
        # one process of a run that dies takes the others with it
        "srun_args": ["--kill-on-bad-exit=1"],
        "additional_parameters": {"kill-on-invalid-dep": "yes", **further, **settings["additional"]},
        "stderr_to_stdout": True,
    }
