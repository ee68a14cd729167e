"""Score a finished run once more, in another way: `python -m scripts.evaluate runs/<hash> split=valid beam=1`.

Any key of the run's protocol may be given, but for its name and further splits. Of a language model for example
`perplexity=[xl_eval] rows=1`, `xl_eval.memory=1280`, `perplexity=[sliding] sliding.stride=1`. The scores are printed;
the run's record keeps those of its own protocol.
"""

import sys
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from memtrans.analysis.arguments import trained_run
from memtrans.errors import UserError, did_you_mean, main_guard
from memtrans.records import NAMES
from memtrans.runs import Run, check_protocol
from memtrans.tables.recipe import flat


@main_guard
def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print(__doc__)
        return
    run = trained_run(Path(sys.argv[1]))
    protocol = _changed(run, sys.argv[2:])

    from memtrans import evaluation  # torch: only when all is in order

    checkpoint = evaluation.checkpoint_of(run.checkpoints, protocol["checkpoint"])
    model, task = evaluation.load_model(checkpoint, run.data, in_half=run.job.IN_HALF)
    scores = run.job.score_split(run, model, task, protocol["split"], protocol, kept=None)
    print(
        f"{run.name}, checkpoint {protocol['checkpoint']}, {protocol['split']}, {scores[0].items} {scores[0].counted}"
    )
    for score in scores:
        print(f"  {NAMES[score.metric]} {score.value:.2f} ({score.evidence})")


def _changed(run: Run, arguments: list[str]) -> dict[str, Any]:
    """The run's protocol with `key=value` arguments. Raises UserError for a key that it lacks, or a bad value."""
    own = run.identity["protocol"]
    try:
        changes = OmegaConf.from_dotlist(arguments)
        protocol: Any = OmegaConf.to_container(OmegaConf.merge(own, changes))
    except (OmegaConfBaseException, YAMLError) as error:
        raise UserError(f"{' '.join(arguments)}: expected key=value ({' '.join(str(error).split())})") from error
    known = flat(own).keys() - {"name", "task", "extra_splits"}
    for key in flat(OmegaConf.to_container(changes)):  # type: ignore[arg-type]
        if key not in known:
            raise UserError(f"{key}: not a setting of an evaluation; {did_you_mean(key, known)}")
    alone = protocol | {"extra_splits": []}
    check_protocol(run.identity | {"protocol": alone}, run.manifest())
    return protocol


if __name__ == "__main__":
    main()
