"""The fairseq plugin: importing it makes `import fairseq` work on a modern stack and registers the memory models.

It is also a `--user-dir` of fairseq: by the time fairseq looks for modules in it, all are imported, and none is
registered twice.
"""

import importlib
import pkgutil
import sys

from memtrans_fairseq import cli, compat


def _discover(room: str) -> None:
    package = importlib.import_module(f"{__name__}.{room}")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")


if not cli.asks_for_usage(sys.argv):  # the usage must not wait for torch and fairseq
    compat.apply()
    for _package in pkgutil.iter_modules(__path__):
        if _package.name in ("models", "tasks", "criterions", "optim"):
            _discover(_package.name)
