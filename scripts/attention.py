"""Where a trained run's attention goes: `python -m scripts.attention runs/<hash> [baseline=runs/<hash>] [key=value]`.

Writes results/attention/<hash>.json: for every layer and head, how much attention memory writes, processes and is read
with, its entropy and its patterns, over a corpus and with intervals; the same for an untrained model, for shuffled
input and, with `baseline`, for a run without memory whose first tokens stand in for it; and a few whole maps.

  baseline=runs/<hash>  a run of the same corpus without memory
  split=test            which text; by default the one that the run is scored on
  sentences=500         so many of it, drawn at random; of a language model, segments in the text's order
  examples=2            sentences with whole maps
"""

from memtrans.analysis.arguments import Arguments
from memtrans.errors import main_guard


@main_guard
def main() -> None:
    given = Arguments.of(__doc__ or "", {"baseline": None, "split": None, "sentences": 500, "examples": 2})
    if given is None:
        return
    from memtrans.analysis import attention  # torch: only when all is in order

    record = attention.analyse(given.folder, **given.values)
    path = record.save(given.run.results)
    print(f"{given.run.name}: {path}")
    for condition in record.conditions:
        heads = sum(layer.heads for layer in condition.layers)
        print(f"  {condition.name}: {condition.sentences} {record.subject.unit}s, {heads} heads")


if __name__ == "__main__":
    main()
