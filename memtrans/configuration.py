"""Composing configs: where the files are, the model sizes as a config group, and the decorator of every command."""

import functools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import hydra
import yaml
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from memtrans.cluster import settings, slurm
from memtrans.errors import UserError, did_you_mean, main_guard
from memtrans.jobs import task_of
from memtrans.kinds import check_kinds

GROUPS = ("corpus", "size", "variant", "protocol", "sweep", "launcher")
CHOSEN = GROUPS[:4]  # of which every run has one
SECTIONS = (*GROUPS, "model", "train", "paths", "tracking")
PASSED_ON = ("model.", "train.", "launcher.additional.")  # to fairseq and sbatch, which have options of their own
CONFIGS = Path(__file__).resolve().parent.parent / "configs"
PRIMARY = "main"  # not "config": fairseq registers a schema of that name, and Hydra would hold our file against it


def _register_presets() -> None:
    """Offer the plugin's table of model sizes as the config group `preset`. The plugin itself is not imported."""
    spec = find_spec("memtrans_fairseq")
    assert spec is not None
    assert spec.origin is not None
    presets = yaml.safe_load(Path(spec.origin).with_name("presets.yaml").read_text())
    for size, options in presets.items():
        ConfigStore.instance().store(size, options, group="preset", provider="memtrans_fairseq")


_register_presets()
# for Hydra's own launcher, which starts one task a run: the cores of all its processes together
OmegaConf.register_new_resolver("memtrans.cores", lambda gpus, cores: max(gpus, 1) * cores, replace=True)


def command(function: Callable[[DictConfig], None]) -> Callable[[], None]:
    """Decorate an entry point: it gets the composed config, and fails as the harness fails (see `errors`)."""

    def checked(config: DictConfig) -> None:
        _check_sections(config)
        check_values(config, HydraConfig.get().overrides.task)
        settings.check(config)
        function(config)

    @functools.wraps(function)
    def guarded(config: DictConfig) -> None:
        if "SUBMITIT_EXECUTOR" in os.environ:  # a job of Hydra's -m hands its error to the command that waits for it
            checked(config)
        else:
            main_guard(checked)(config)

    decorated: Any = hydra.main(config_path=str(CONFIGS), config_name=PRIMARY, version_base="1.3")(guarded)

    @main_guard
    @functools.wraps(function)
    def entry() -> None:
        # what this command starts or submits is not part of the job, if any, in which it runs
        for name in os.environ.keys() - slurm.outside(os.environ).keys():
            del os.environ[name]
        os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # raise errors instead of printing them in several lines
        with _errors_in_one_line():
            decorated()

    return entry


def compose(overrides: Sequence[str] = ()) -> DictConfig:
    """The config that `python -m scripts.train <overrides>` would get. Works inside a command and outside."""
    with _errors_in_one_line():
        if GlobalHydra.instance().is_initialized():
            config = hydra.compose(PRIMARY, list(overrides))
        else:
            with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
                config = hydra.compose(PRIMARY, list(overrides))
    _check_sections(config)
    settings.check(config)
    return config


def check_fit(config: DictConfig) -> None:
    """Refuse a variant, size or protocol that is not for the corpus' task. Raises UserError naming those that are."""
    task = task_of(config.corpus)
    misfits = [group for group in ("variant", "size", "protocol") if task_of(config[group]) != task]
    if misfits:
        chosen = " and ".join(f"{group}={config[group].name}" for group in misfits)
        fitting = "; ".join(f"{group}={'|'.join(_choices(group, task))}" for group in misfits)
        are = "is" if len(misfits) == 1 else "are"
        raise UserError(
            f"corpus={config.corpus.name} is for {task.replace('_', ' ')}, {chosen} {are} not; give {fitting}"
        )


def _choices(group: str, task: str) -> list[str]:
    """The names of a config group that are for this task."""
    found = {path.stem: yaml.safe_load(path.read_text()) for path in sorted((CONFIGS / group).glob("[!_]*.yaml"))}
    return [name for name, content in found.items() if task_of(content[group]) == task]


def _check_sections(config: DictConfig) -> None:
    """Refuse a value where a section of settings must stand, such as `model=base`. Raises UserError."""
    for section in SECTIONS:
        if section in config and not isinstance(value := config[section], DictConfig):
            meant = [group for group in GROUPS if (CONFIGS / group / f"{value}.yaml").exists()]
            hint = f"; did you mean {meant[0]}={value}?" if meant else ""
            raise UserError(f"{section}={value}: {section} holds several settings; give {section}.NAME=VALUE{hint}")
        if section in CHOSEN and section not in config:
            names = ", ".join(path.stem for path in sorted((CONFIGS / section).glob("[!_]*.yaml")))
            raise UserError(f"{section}: a config was chosen that is only a part of others; known: {names}")


def check_values(config: DictConfig, overrides: Iterable[str]) -> None:
    """Refuse values of a wrong kind among the `overrides` that made this config. Raises UserError."""
    check_kinds(config, _usual(tuple(sorted(o for o in overrides if o.partition("=")[0] in GROUPS))))


@functools.cache
def _usual(choices: tuple[str, ...]) -> DictConfig:
    return compose(choices)


@contextmanager
def _errors_in_one_line() -> Iterator[None]:
    """What Hydra says of a config that cannot be composed, as a UserError."""
    try:
        yield
    except MissingConfigException as error:
        known = [option for option in error.options or () if not option.startswith("_")]
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        raise UserError(f"{group}={name}: no such config; {did_you_mean(name, known)}") from error
    except OverrideParseException as error:
        raise UserError(
            f"{error.override}: not understood; expected NAME=VALUE, the value in quotes if it has blanks or signs"
        ) from error
    except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        line, cause = " ".join(str(error).split()), error.__cause__
        if isinstance(cause, ConfigAttributeError | ConfigKeyError) and isinstance(cause.parent_node, DictConfig):
            near = did_you_mean(str(cause.key), map(str, cause.parent_node))
            line = f"{cause.full_key}: no such setting; {near}"
            if str(cause.full_key).startswith(PASSED_ON):
                line += f"; another option is added with a plus: +{cause.full_key}=VALUE"
        raise UserError(line) from error
