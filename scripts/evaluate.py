"""Score a finished run once more, in another way: `python -m scripts.evaluate runs/<hash> split=valid beam=1`.

Any key of the run's protocol may be given, but for its name and further splits. The scores are printed; the run's
record keeps those of its own protocol.
"""

import sys
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from memtrans.errors import UserError, did_you_mean, main_guard
from memtrans.runs import Run


@main_guard
def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print(__doc__)
        return
    folder = Path(sys.argv[1])
    if not (folder / "run.json").exists():
        raise UserError(f"{folder}: not a run's folder (it has no run.json); give one of runs/")
    run = Run.read(folder)
    protocol = run.identity["protocol"] | _changes(run, sys.argv[2:])
    if not (run.folder / "trained").exists():
        raise UserError(f"{folder}: the run is not trained yet; finish it with scripts.train or scripts.sweep")

    from memtrans import evaluation  # torch: only when all is in order

    model, task = evaluation.load_model(evaluation.checkpoint_of(run.checkpoints, protocol["checkpoint"]), run.data)
    references = evaluation.references_of(run, protocol["split"])
    hypotheses = evaluation.translate(model, task, protocol["split"], protocol)
    chosen = evaluation.draw(len(hypotheses), protocol["sentences"], protocol["draw_seed"])
    print(f"{run.name}, checkpoint {protocol['checkpoint']}, {protocol['split']}, {len(chosen)} sentences")
    for score in evaluation.score(hypotheses, references, protocol["split"], chosen):
        print(f"  {score.metric} {score.value:.2f} ({score.signature})")


def _changes(run: Run, arguments: list[str]) -> dict[str, Any]:
    """`key=value` arguments as a part of the protocol. Raises UserError for a key that the protocol does not have."""
    try:
        changes: Any = OmegaConf.to_container(OmegaConf.from_dotlist(arguments))
    except OmegaConfBaseException as error:
        raise UserError(f"{' '.join(arguments)}: expected key=value ({error})") from error
    known = run.identity["protocol"].keys() - {"name", "extra_splits"}
    for key in changes:
        if key not in known:
            raise UserError(f"{key}: not a setting of an evaluation; {did_you_mean(key, known)}")
    return changes


if __name__ == "__main__":
    main()
