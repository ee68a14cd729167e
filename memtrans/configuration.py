"""Composing configs: where the files are, the model sizes as a config group, and the decorator of every command."""

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import hydra
import yaml
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from memtrans.errors import main_guard

CONFIGS = Path(__file__).resolve().parent.parent / "configs"


def _register_presets() -> None:
    """Offer the plugin's table of model sizes as the config group `preset`. The plugin itself is not imported."""
    spec = find_spec("memtrans_fairseq")
    assert spec is not None
    assert spec.origin is not None
    presets = yaml.safe_load(Path(spec.origin).with_name("presets.yaml").read_text())
    for size, options in presets.items():
        ConfigStore.instance().store(size, options, group="preset", provider="memtrans_fairseq")


_register_presets()


def command(function: Callable[[DictConfig], None]) -> Callable[[], None]:
    """Decorate an entry point: it gets the composed config, and fails as the harness fails (see `errors`)."""
    guarded = main_guard(function)
    decorated: Any = hydra.main(config_path=str(CONFIGS), config_name="config", version_base="1.3")(guarded)
    return decorated


def compose(overrides: Sequence[str] = ()) -> DictConfig:
    """The config that `python -m scripts.train <overrides>` would get. Works inside a command and outside."""
    if GlobalHydra.instance().is_initialized():
        return hydra.compose("config", list(overrides))
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return hydra.compose("config", list(overrides))
