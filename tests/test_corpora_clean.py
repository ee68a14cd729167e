"""Which training pairs are dropped, and that each is counted once under its reason."""

from collections import Counter

import pytest
from corpora_toys import sentences

from memtrans.corpora.clean import REASONS, Rules, clean, fault

RULES = Rules(max_characters=100, max_ratio=3.0)


@pytest.mark.parametrize(
    ("source", "target", "reason"),
    [
        ("Ein Satz.", "A sentence.", None),
        ("", "A sentence.", "empty"),
        ("Ein Satz.", "", "empty"),
        ("Ein\x93 Satz.", "A sentence.", "control_characters"),
        ("Ein Satz.", "A\rsentence.", "control_characters"),
        ("Ein\tSatz.", "A\u2028sentence.", None),
        ("a" * 100, "b" * 100, None),
        ("a" * 101, "b" * 100, "too_long"),
        ("a" * 30, "b" * 10, None),
        ("a" * 10, "b" * 31, "bad_ratio"),
        ("Prüfsatz", "test set", "in_evaluation"),
        ("Prüfsatz", "test", None),  # one side alone may occur
    ],
)
def test_reason(source, target, reason):
    assert fault(source, target, RULES, {("Prüfsatz", "test set")}) == reason


def test_every_pair_is_kept_in_order_or_counted():
    good = sentences(50, seed=1)
    bad = [("", "x"), ("x", ""), ("a" * 101, "b" * 101), ("a", "bbbb"), ("\x00", "x"), good[7]]
    mixed = [pair for both in zip(good, bad * 9, strict=False) for pair in both]
    dropped: Counter[str] = Counter()
    kept = list(clean(mixed, RULES, {good[7]}, dropped))
    assert kept == [pair for pair in good if pair != good[7]]
    assert len(kept) + dropped.total() == len(mixed)
    assert set(dropped) == set(REASONS)
