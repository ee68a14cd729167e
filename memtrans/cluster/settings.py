"""The config group `launcher`: which settings can work, and which options of sbatch they are."""

from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, ListConfig, OmegaConf

from memtrans.cluster import slurm
from memtrans.errors import UserError, main_guard

# srun does not inherit sbatch's --cpus-per-task from Slurm 22.05 on, but reads this variable
CORES = 'export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"'
LEAST = {"gpus": 0, "nodes": 1, "cpus_per_task": 1, "time_min": 1, "signal_seconds": 1, "at_once": 1}
LEAST |= {"max_timeouts": 0, "accumulate": 1, "mem_gb": 1, "small.time_min": 1, "small.cpus_per_task": 1}
LEAST |= {"small.mem_gb": 1}
WORDS = ("partition", "account", "qos", "constraint", "gpu_type", "python", "small.partition")
# options of sbatch by which jobs are told apart, wait for each other, are told of their end and find their files
OURS = {"job-name", "array", "dependency", "hold", "signal", "parsable", "output", "open-mode", "kill-on-invalid-dep"}
OURS |= {"time-min", "error", "chdir"}
# those that settings of the launcher stand for, without which these would not be true
INSTEAD = {"time": "time_min", "nodes": "nodes", "ntasks": "gpus", "ntasks-per-node": "gpus", "mem": "mem_gb"}
INSTEAD |= {"gpus": "gpus", "gpus-per-node": "gpus", "gpus-per-task": "gpus", "gres": "gpus and launcher.gpu_type"}
INSTEAD |= {name: name.replace("-", "_") for name in ("cpus-per-task", "partition", "account", "qos", "constraint")}


def check(config: DictConfig) -> None:
    """Refuse settings of `config.launcher` that cannot work. Raises UserError."""
    launcher = config.launcher
    if launcher.name == "local":
        _check_numbers(launcher, {"gpus": 1, "accumulate": 1}, ("gpus",))
        return
    if config.get("jobs") is not None:
        raise UserError(f"jobs={config.jobs}: for launcher=local; launcher.at_once limits the jobs of a cluster")
    _check_numbers(launcher, LEAST, ("mem_gb", "small.mem_gb"))
    _check_types(launcher)
    if launcher.nodes > max(launcher.gpus, 1) or launcher.gpus % launcher.nodes:
        raise UserError(
            f"launcher.gpus={launcher.gpus} launcher.nodes={launcher.nodes}: gpus are those of a run on all its nodes "
            "together, the same number on each"
        )
    _check_signal(launcher.signal_seconds, launcher.time_min)


def _check_numbers(launcher: DictConfig, least: dict[str, int], optional: tuple[str, ...]) -> None:
    for key, smallest in least.items():
        value = OmegaConf.select(launcher, key)
        if value is None and key in optional:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < smallest:
            null = "null or " if key in optional else ""
            raise UserError(f"launcher.{key}={value}: expected {null}a whole number of at least {smallest}")


def _check_types(launcher: DictConfig) -> None:
    for key in WORDS:
        if not isinstance(value := OmegaConf.select(launcher, key), str | int | None):
            raise UserError(f"launcher.{key}={value}: expected null or a word")
    setup = launcher.setup
    if not isinstance(setup, ListConfig) or not all(isinstance(line, str) for line in setup):
        raise UserError(f"launcher.setup={setup!s}: expected a list of shell lines, such as [module load cuda]")
    if not isinstance(launcher.additional, DictConfig):
        raise UserError(
            f"launcher.additional={launcher.additional!s}: expected options of sbatch by name, such as "
            "+launcher.additional.nice=10"
        )
    for option, value in ((str(key), str(value)) for key, value in launcher.additional.items()):
        if (name := option.replace("_", "-")) in OURS:
            raise UserError(f"launcher.additional.{option}: jobs are submitted with one of their own")
        if name in INSTEAD and (name != "gres" or "gpu" in value):
            raise UserError(f"launcher.additional.{option}: give launcher.{INSTEAD[name]} instead")
    if launcher.prepare not in ("here", "job"):
        raise UserError(f"launcher.prepare={launcher.prepare}: expected here or job")
    if not isinstance(launcher.table, bool):
        raise UserError(f"launcher.table={launcher.table}: expected true or false")


def _check_signal(seconds: int, minutes: int) -> None:
    if seconds >= minutes * 60:
        raise UserError(f"launcher.signal_seconds={seconds}: that is not before the end of launcher.time_min={minutes}")
    if seconds > (most := _most_seconds(minutes)):
        raise UserError(
            f"launcher.signal_seconds={seconds}: with launcher.time_min={minutes} expected {most} at most, or "
            "launcher.max_timeouts would not count"
        )


def _most_seconds(minutes: int) -> int:
    """What comes earlier than 10 minutes and a fifth of the time before the limit, submitit takes for a preemption.

    Slurm may be a minute early, and submitit counts from when the job's setup is done.
    """
    return max(600, minutes * 12) - 120


class CheckedMultirun(Callback):
    """Hydra calls this before -m submits anything."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        main_guard(check_multirun)(config)


def check_multirun(config: DictConfig) -> None:
    """Refuse what -m cannot do. Raises UserError."""
    check(config)
    launcher = config.launcher
    for key, only in {"nodes": 1, "gpu_type": None, "python": None, "prepare": "here"}.items():
        if launcher[key] != only:
            raise UserError(f"launcher.{key}={launcher[key]}: not with -m, but with scripts.sweep")
    slurm.queued()  # so that it is told in a line if there is no Slurm, before anything is written


def options(
    launcher: DictConfig, name: str, gpus: int = 0, nodes: int = 1, small: bool = False, **further: Any
) -> dict[str, Any]:
    """submitit's parameters of a job called `name` with a process for each of `gpus`, or one if there are none.

    A `small` job has limits of its own. `further` are options of sbatch that the launcher's own do not name.
    """
    settings: dict[str, Any] = OmegaConf.to_container(launcher, resolve=True)  # type: ignore[assignment]
    if small:
        settings |= settings["small"] | {"constraint": None}  # which names the GPUs
        minutes = settings["time_min"]
        settings["signal_seconds"] = min(settings["signal_seconds"], minutes * 12, _most_seconds(minutes))
    chosen = {key: settings[key] for key in ("partition", "account", "qos", "constraint") if settings[key]}
    if settings["mem_gb"]:
        chosen["mem"] = f"{settings['mem_gb']}GB"
    if gpus:
        kind = f"{settings['gpu_type']}:" if settings["gpu_type"] else ""
        chosen["gpus_per_node"] = f"{kind}{gpus // nodes}"
    additional = {name: value for name, value in settings["additional"].items() if value is not False}
    if any(additional.get(name) for name in ("no-requeue", "no_requeue")):
        additional.pop("requeue", None)
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
        "additional_parameters": {"kill-on-invalid-dep": "yes", **further, **additional},
        "stderr_to_stdout": True,
    }
