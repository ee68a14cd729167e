"""Continue a trained run with another number of memory tokens: `python -m scripts.extend runs/<hash> memory_tokens=20`.

A run of its own, with its own hash and record, which names its parent. It starts from the parent's weights; what
training it needs is short. The same command continues it if it was stopped. How the parent does with more tokens
before any further training is among the lesions (scripts.lesion kinds=more).

  memory_tokens=20      so many in all; fewer keep the first, and as many as before show what training on is worth alone
  start=new             how tokens that the parent lacks start: new, as before training, or copies of the parent's
  train.max_update=100  any training option of the parent (default: its own, but a tenth of its updates, warm-up and
                        learning rate)
"""

import sys

from memtrans.analysis.arguments import Arguments
from memtrans.analysis.extending import extension, write_start
from memtrans.errors import UserError, main_guard
from memtrans.sweeping import run_missing


@main_guard
def main() -> None:
    changes = [argument for argument in sys.argv[2:] if argument.startswith("train.")]
    given = Arguments.of(__doc__ or "", {"memory_tokens": 0, "start": "new"}, leave=changes)
    if given is None:
        return
    parent, tokens = given.run, given.values["memory_tokens"]
    if not tokens:
        raise UserError("memory_tokens: missing; say how many, for example memory_tokens=20")
    record = parent.record()
    if record is None:
        raise UserError(f"{parent.folder}: it has no record yet; finish it with scripts.train or scripts.sweep")
    run = extension(parent, record, tokens, given.values["start"], changes)
    if run.record() is None:
        write_start(parent, run)
    if failures := run_missing([run], jobs=1, runs_per_gpu=1):
        raise UserError(f"{run.name} failed: {failures[0].reason} (log: {run.log})")
    found = run.record()
    assert found is not None
    print(f"{run.name}: {run.results / 'records' / run.hash}.json")
    for name, one in ((parent.label, record), (run.label, found)):
        print(f"  {name}: {one.headline.metric} {one.headline.value:.2f} ({one.headline.evidence})")


if __name__ == "__main__":
    main()
