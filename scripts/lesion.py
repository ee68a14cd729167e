"""What a trained run's memory is worth to it: `python -m scripts.lesion runs/<hash> [key=value]`.

Scores the run with parts of its memory taken away, frozen, zeroed or hidden from the decoder, and with more tokens than
it was trained with; BLEU or perplexity, the difference to the intact model, and a paired test. Writes
results/lesions/<hash>.json.

  split=test            which text; by default the one that the run is scored on
  sentences=500         so many of it (default: all); of a language model, segments from the start of the text
  kinds=first,single    some of first, random, single, frozen, zeroed, blind, more (default: all)
"""

from memtrans.analysis.arguments import Arguments
from memtrans.analysis.lesion_record import KINDS
from memtrans.errors import UserError, did_you_mean, main_guard


@main_guard
def main() -> None:
    given = Arguments.of(__doc__ or "", {"split": None, "sentences": 0, "kinds": ",".join(KINDS)})
    if given is None:
        return
    kinds = tuple(given.values.pop("kinds").split(","))
    for kind in kinds:
        if kind not in KINDS:
            raise UserError(f"kinds: no such kind of lesion {kind!r}; {did_you_mean(kind, KINDS)}")
    from memtrans.analysis import lesions  # torch: only when all is in order

    record = lesions.analyse(given.folder, kinds=kinds, **given.values)
    print(f"{given.run.name}: {record.save(given.run.results)}")
    print(f"  intact: {record.intact.metric} {record.intact.value:.2f} ({record.intact.evidence})")
    for lesion in record.lesions:
        print(f"  {lesion.name}: {lesion.value:.2f} ({lesion.difference:+.2f}, p = {lesion.p:.3f})")
    for name, reason in record.left_out.items():
        print(f"  left out: {name}: {reason}")


if __name__ == "__main__":
    main()
