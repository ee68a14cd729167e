"""Give a run to W&B or TensorBoard, from its log: `python -m scripts.track runs/<hash> wandb=offline tensorboard=true`.

For runs that were trained without a tracker, or lost theirs. `wandb=online` uploads; `wandb=offline` makes a folder
`runs/<hash>/wandb/offline-run-*` for `wandb sync`. The run's hash is its id at W&B: a run that is there is continued.
Where attention goes is shown of runs that were scored with a tracker on, which keep maps of it in their folder.
"""

import sys
from pathlib import Path

from memtrans.errors import UserError, did_you_mean, main_guard
from memtrans.runs import Run
from memtrans.tracking.metrics import read
from memtrans.tracking.pictures import draw
from memtrans.tracking.trackers import chosen

SETTINGS = {"wandb": ("offline", "online"), "tensorboard": ("true", "false")}


@main_guard
def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print(__doc__)
        return
    run, settings = Run.read(Path(sys.argv[1])), _settings(sys.argv[2:])
    if not (lines := read(run.metrics)):
        raise UserError(f"{run.metrics}: nothing is logged there yet; train the run first")
    shown = draw(run, lines)
    for name, begin in chosen(run, settings.get("wandb"), settings.get("tensorboard") == "true").items():
        try:
            tracker = begin()
            for line in lines:
                tracker.log(line)
            tracker.finish(lines, shown, well=run.record() is not None)
        except Exception as error:
            raise UserError(f"{name}: {' '.join(str(error).split())}") from error
        print(f"{run.name}: {len(lines)} lines of {run.metrics} given to {name}")


def _settings(arguments: list[str]) -> dict[str, str]:
    """`key=value` arguments. Raises UserError for a key or value that is not known, and if none is given."""
    settings = {}
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key not in SETTINGS:
            raise UserError(f"{argument}: not a setting; {did_you_mean(key, SETTINGS)}")
        if value not in SETTINGS[key]:
            raise UserError(f"{argument}: expected {key}={'|'.join(SETTINGS[key])}")
        settings[key] = value
    if not settings:
        raise UserError("which tracker? Give wandb=offline, wandb=online or tensorboard=true")
    return settings


if __name__ == "__main__":
    main()
