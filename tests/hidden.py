"""Real processes in which packages are missing, or are of another version."""

import os
from pathlib import Path

SITE = """
import importlib.metadata, sys
hidden, versions = {hidden!r}, {versions!r}

class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in hidden.values():
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

original = importlib.metadata.version

def version(name):
    if name in hidden:
        raise importlib.metadata.PackageNotFoundError(name)
    return versions.get(name) or original(name)

sys.meta_path.insert(0, Hide())
importlib.metadata.version = version
"""


def hide(folder: Path, hidden: dict[str, str], versions: dict[str, str] | None = None) -> dict[str, str]:
    """The environment in which packages are hidden, {distribution: module}, and others of another version."""
    (folder / "sitecustomize.py").write_text(SITE.format(hidden=hidden, versions=versions or {}))
    return {"PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}
