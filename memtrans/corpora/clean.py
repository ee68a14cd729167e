"""Drop training pairs that cannot teach translation, each counted by its reason. Evaluation sets are never touched."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

# C0 and C1 controls but the tab; C1 in a UTF-8 file is mostly text that was decoded wrongly once
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f]")

REASONS = {
    "empty": "one side has no text",
    "control_characters": "a control character other than the tab (usually a broken encoding)",
    "too_long": "one side has more than clean.max_characters characters",
    "bad_ratio": "one side has more than clean.max_ratio times the characters of the other",
    "in_evaluation": "the pair stands in a validation or test set",
}


@dataclass(frozen=True)
class Rules:
    """Limits for a training pair, in characters: words are no unit for scripts without spaces."""

    max_characters: int
    max_ratio: float


def fault(source: str, target: str, rules: Rules, evaluation: set[tuple[str, str]]) -> str | None:
    """The first of REASONS for which this pair is dropped, or None."""
    if not source or not target:
        return "empty"
    if _CONTROL.search(source) or _CONTROL.search(target):
        return "control_characters"
    shorter, longer = sorted((len(source), len(target)))
    if longer > rules.max_characters:
        return "too_long"
    if longer > rules.max_ratio * shorter:
        return "bad_ratio"
    return "in_evaluation" if (source, target) in evaluation else None


def clean(
    pairs: Iterable[tuple[str, str]], rules: Rules, evaluation: set[tuple[str, str]], dropped: Counter[str]
) -> Iterator[tuple[str, str]]:
    """Yield the pairs to keep; count the others in `dropped` by reason. Pairs in `evaluation` must not train."""
    for source, target in pairs:
        reason = fault(source, target, rules, evaluation)
        if reason is None:
            yield source, target
        else:
            dropped[reason] += 1
