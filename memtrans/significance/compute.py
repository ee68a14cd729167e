"""Computes the evidence of `results/significance/`: which rows to compare, their translations, the references."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from memtrans.corpora import read_lines
from memtrans.errors import UserError
from memtrans.files import checksum
from memtrans.progress import say
from memtrans.records import Record
from memtrans.significance import sentences
from memtrans.significance.evidence import SCHEMA, Comparison, Pair, load_comparisons, paired
from memtrans.tables.rows import Row, Table

Translations = dict[str, list[str]]  # the scored sentences by run


class References(NamedTuple):
    """The scored sentences of a test set, and the checksum of the file that holds them."""

    lines: list[str]
    sha256: str


def compute(results: Path, data: Path, tables: Iterable[Table], wanted: Iterable[tuple[str, str]]) -> list[Path]:
    """Compare all rows with their baselines, and the pairs of labels in `wanted`; returns the files written.

    What is there already, of the same translations, is left alone. Raises UserError where a corpus is missing.
    """
    kept, written, wanted = load_comparisons(results), [], set(wanted)
    for table in tables:
        for row, other in _pairs(table, wanted):
            key = (row.setting or "", other.setting or "")
            if key in kept and kept[key].fits(row.records, other.records):
                continue
            say(f"{table.title}: {row.label} against {other.label}")
            written.append(_compare(row, other, results, data).save(results))
    return written


def _pairs(table: Table, wanted: set[tuple[str, str]]) -> list[tuple[Row, Row]]:
    """The rows to compare: alike in evidence and recipe, with translations of the same seeds."""
    rows = [row for row in table.rows if row.records and table.metric == "bleu"]
    return [
        (row, other)
        for row in rows
        for other in rows
        if (other is table.baseline(row) or (row.label, other.label) in wanted)
        and other is not row
        and row.evidence == other.evidence
        and not row.unlike(other)
        and paired(row.records, other.records)
    ]


def _compare(row: Row, other: Row, results: Path, data: Path) -> Comparison:
    pairs = list(paired(row.records, other.records).values())
    first = pairs[0][0]
    references = _references(first, data)
    translations: Translations = {r.run: _translations(r, results, references) for pair in pairs for r in pair}
    tests = [sentences.paired_tests(translations[a.run], translations[b.run], references.lines) for a, b in pairs]
    systems, baselines = (
        [sentences.statistics(translations[pair[side].run], references.lines) for pair in pairs] for side in (0, 1)
    )
    resampled, deviation = sentences.resample(systems, baselines)
    return Comparison(
        schema=SCHEMA,
        label=row.label,
        against=other.label,
        setting=first.setting,
        against_setting=pairs[0][1].setting,
        metric="bleu",
        corpus=first.corpus.fingerprint,
        split=first.headline.split,
        sentences=len(references.lines),
        references=references.sha256,
        bootstrap_signature=tests[0].signatures[0],
        randomisation_signature=tests[0].signatures[1],
        samples=sentences.SAMPLES,
        random_seed=sentences.SEED,
        pairs=tuple(_pair(a, b, test) for (a, b), test in zip(pairs, tests, strict=True)),
        deviation_of_one=round(deviation, 4),
        resampled=tuple(round(float(value), 4) for value in resampled),
    )


def _pair(record: Record, other: Record, test: sentences.Tested) -> Pair:
    assert record.hypotheses  # `paired` left none without
    assert other.hypotheses
    return Pair(
        seed=record.seed,
        run=record.run,
        against=other.run,
        hypotheses=record.hypotheses.sha256,
        against_hypotheses=other.hypotheses.sha256,
        difference=test.difference,
        bootstrap_p=round(test.bootstrap_p, 6),
        randomisation_p=round(test.randomisation_p, 6),
    )


def _references(record: Record, data: Path) -> References:
    corpus = record.corpus
    language = record.config["corpus"]["languages"][1]
    folder = data / "prepared" / f"{corpus.name}-{corpus.fingerprint[:12]}"
    path = folder / "text" / f"{record.headline.split}.{language}"
    if not path.exists():
        raise UserError(
            f"{path}: no such file; the references are needed once: run `python -m scripts.prepare "
            f"corpus={corpus.name}` first, or name the folder of the data with --data"
        )
    lines = list(read_lines(path))
    return References([lines[i] for i in _drawn(len(lines), record)], checksum(path)["sha256"])


def _translations(record: Record, results: Path, references: References) -> list[str]:
    """The scored translations of a run. Raises UserError unless they are what the record says they are."""
    assert record.hypotheses
    path = results / record.hypotheses.file
    if checksum(path)["sha256"] != record.hypotheses.sha256:
        raise UserError(f"{path}: not the translations that the record of run {record.run} names; restore the file")
    lines = list(read_lines(path))
    chosen = [lines[i] for i in _drawn(len(lines), record)]
    if len(chosen) != len(references.lines):
        raise UserError(f"{path}: {len(chosen)} translations for {len(references.lines)} references; restore the file")
    value = float(sentences.bleu(sentences.statistics(chosen, references.lines).sum(0)))
    if abs(value - record.headline.value) > 1e-6:
        raise UserError(
            f"{path}: BLEU {value:.4f} with these references, the record says {record.headline.value:.4f}; prepare the "
            "corpus again"
        )
    return chosen


def _drawn(count: int, record: Record) -> list[int]:
    """The indices of the sentences that the run's protocol scored."""
    from memtrans.evaluation import draw  # torch: only where something is computed

    protocol: Mapping = record.config["protocol"]
    return draw(count, protocol["sentences"], protocol["draw_seed"])
