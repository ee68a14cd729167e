"""Make learning curves again from the logs of runs: `python -m scripts.curves runs/<hash> [runs/<hash> ...]`.

Writes results/curves/<hash>.json, as a run does itself when it has finished; the report shows them. Needs
runs/<hash>/metrics.jsonl alone.
"""

import sys
from pathlib import Path

from memtrans.curves import Curve
from memtrans.errors import UserError, main_guard
from memtrans.runs import Run


@main_guard
def main() -> None:
    folders = [Path(argument) for argument in sys.argv[1:]]
    if not folders or sys.argv[1] in ("-h", "--help"):
        print(__doc__)
        return
    for folder in folders:
        run = Run.read(folder)
        if not (curve := Curve.of(run)):
            raise UserError(f"{run.metrics}: no loss is logged there, so there is no curve to make")
        print(curve.save(run.results))


if __name__ == "__main__":
    main()
