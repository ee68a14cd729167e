"""Model sizes by name, read from presets.yaml: fairseq option names and their values."""

from pathlib import Path

import yaml

PRESETS: dict[str, dict[str, int]] = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text())
