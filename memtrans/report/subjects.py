"""What an analysis was of, in words, and the order in which analyses are shown."""

import re
from collections.abc import Iterable
from typing import Protocol, TypeVar

from memtrans.analysis.subject import Subject


class Analysis(Protocol):
    @property
    def subject(self) -> Subject: ...


A = TypeVar("A", bound=Analysis)


def name(subject: Subject) -> str:
    return f"{subject.label}, seed {subject.seed}, {subject.corpus.name}"


def describe_subject(subject: Subject) -> str:
    """The evidence of an analysis in words: which run, which text, which code."""
    return (
        f"{name(subject)}: {subject.sentences:,} {subject.unit}s of {subject.split}, {subject.drawn}; run "
        f"`{subject.run}`, checkpoint {subject.checkpoint} (sha256 `{subject.checkpoint_sha256}`), commit "
        f"`{subject.commit}`"
    )


def in_order(records: Iterable[A]) -> list[A]:
    """By corpus, then label with its numbers as numbers, then seed."""

    def key(record: A) -> tuple:
        subject = record.subject
        label = [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", subject.label)]
        return subject.corpus.name, label, subject.seed, subject.run

    return sorted(records, key=key)
