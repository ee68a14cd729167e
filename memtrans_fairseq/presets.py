"""Model sizes by name, read from presets.yaml: fairseq option names and their values."""

from pathlib import Path
from typing import Any

import yaml

PRESETS: dict[str, dict[str, Any]] = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text())
LANGUAGE_MODELING = {name.removeprefix("lm_"): options for name, options in PRESETS.items() if name.startswith("lm_")}
TRANSLATION = {name: options for name, options in PRESETS.items() if not name.startswith("lm_")}
