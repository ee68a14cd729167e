"""The arguments of the commands that analyse a run: its folder, then key=value. No torch is imported."""

import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memtrans.errors import UserError, did_you_mean
from memtrans.runs import Run


@dataclass(frozen=True)
class Arguments:
    folder: Path
    run: Run
    values: dict[str, Any]

    @classmethod
    def of(cls, usage: str, defaults: Mapping[str, Any], leave: Collection[str] = ()) -> "Arguments | None":
        """What the command line says: a whole number where a default is one, else text; None if it asks for help.

        Arguments to `leave` are the caller's own. Raises UserError for a folder that is no trained run's, or a key that
        there is not.
        """
        if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
            print(usage)
            return None
        values = dict(defaults)
        for argument in (argument for argument in sys.argv[2:] if argument not in leave):
            key, equals, value = argument.partition("=")
            if not equals or not value:
                raise UserError(f"{argument}: expected key=value; keys: {', '.join(defaults)}")
            if key not in defaults:
                raise UserError(f"{key}: no such setting; {did_you_mean(key, defaults)}")
            values[key] = _number(argument, value) if isinstance(defaults[key], int) else value
        folder = Path(sys.argv[1])
        return cls(folder, trained_run(folder), values)


def _number(argument: str, value: str) -> int:
    if not value.isdecimal() or int(value) < 1:
        raise UserError(f"{argument}: expected a whole number of at least 1")
    return int(value)


def trained_run(folder: Path) -> Run:
    """The run of a folder. Raises UserError if it is none, not trained yet, or without its prepared corpus."""
    run = Run.read(folder)
    if not (run.folder / "trained").exists():
        raise UserError(f"{folder}: the run is not trained yet; finish it with scripts.train or scripts.sweep")
    if not (run.data / "manifest.json").exists():
        raise UserError(
            f"{folder}: its prepared corpus is not in {run.data}; call from the folder where it was trained, or run "
            "scripts.prepare again with the same settings of corpus and paths"
        )
    run.manifest()  # that it can be read
    return run
