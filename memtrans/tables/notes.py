"""What stands above and below a table: warnings about what does not compare, and the evidence of its numbers."""

from collections import Counter, defaultdict
from collections.abc import Iterable

from memtrans.records import NAMES, Record, Score
from memtrans.tables.cells import MISSING, UNKNOWN, letter, name
from memtrans.tables.recipe import difference_text, differing
from memtrans.tables.rows import BASELINE, Row, Table, chrf_of

PUBLISHED = ("paper", "lm")  # protocols that score as the published tables do
CERTAINTY = {
    "P": "stated by the paper",
    "S": "from one secondary text only",
    "R": "from a later paper of the same group",
}


def warnings(table: Table) -> list[str]:
    """One line for each reason why rows of this table must not be compared or were not averaged."""
    lines = []
    if len(table.evidences) > 1:
        fields = table.evidences[0]._fields
        differing = [name for name in fields if len({getattr(evidence, name) for evidence in table.evidences}) > 1]
        groups = [
            f"[{letter(i)}] " + ", ".join(f"{name} `{getattr(evidence, name)}`" for name in differing)
            for i, evidence in enumerate(table.evidences)
        ]
        lines.append(f"Not all rows compare: they differ in {' and '.join(differing)}. {'; '.join(groups)}.")
    for label, settings in table.settings.items():
        lines.append(
            f"{label} has records of {len(settings)} settings: each has its own row, none are averaged together."
        )
    return [*lines, *_without_baseline(table)]


def _without_baseline(table: Table) -> list[str]:
    """The rows that no baseline, or more than one, was trained and decoded like; rows with one cause in one line."""
    rows: dict[str, list[str]] = defaultdict(list)
    for row in table.rows:
        baselines = table.baselines(row)
        if row.label != BASELINE and baselines and table.baseline(row) is None:
            rows[_cause(row, baselines)].append(name(row, table))
    return [f"No difference to the {BASELINE} for {', '.join(names)}: {cause}." for cause, names in rows.items()]


def _cause(row: Row, baselines: list[Row]) -> str:
    nearest = min(baselines, key=lambda baseline: len(row.unlike(baseline)))
    text = difference_text(row.recipe, nearest.recipe, row.unlike(nearest))
    if not text:
        return f"several {BASELINE} rows have the same training and decoding settings"
    return f"the training or decoding settings differ from the baseline's ({text})"


def notes(table: Table) -> list[str]:
    """The evidence, one note a line."""
    if not table.records:
        return [*_paper_notes(table), _legend()]
    measured = [
        f"±: sample standard deviation over seeds; none for one seed. Δ {BASELINE}: mean difference to the "
        f"{BASELINE} of the same seed, trained and decoded alike, ± its sample standard deviation over the pairs; in "
        "brackets how many pairs, where a seed lacks one.",
    ]
    if table.metric == "perplexity":
        measured.append("Lower is better.")
    evidence = sorted({_evidence(record) for record in table.records})
    return [*evidence, *measured, *_on_purpose(table), *_paper_notes(table), *_run_notes(table), _legend()]


def _on_purpose(table: Table) -> list[str]:
    """The settings in which rows differ from their baseline because the sweep says so."""
    found = []
    for row in table.rows:
        baseline = table.baseline(row) if row.label != BASELINE else None
        if baseline and differing(row.recipe, baseline.recipe):
            found.append(f"{name(row, table)} ({difference_text(row.recipe, baseline.recipe)})")
    return [f"Not alike on purpose: {'; '.join(found)}."] if found else []


def describe(score: Score) -> str:
    """A score's split and size, and its signature or its unit and context, in words."""
    if score.metric == "perplexity":
        return f"perplexity: {score.split}, {score.items:,} {score.counted}; context: {score.context}"
    return f"{NAMES[score.metric]}: {score.split}, {score.items:,} {score.counted}; `{score.signature}`"


def _evidence(record: Record) -> str:
    chrf = chrf_of(record)
    beside = f"; chrF: `{chrf.signature}`" if chrf else ""
    return f"{describe(record.headline)}{beside}; corpus fingerprint `{record.corpus.fingerprint[:12]}`."


def _paper_notes(table: Table) -> list[str]:
    cells = [table.paper[row.label] for row in table.rows if row.label in table.paper]
    known = sorted({(cell.certainty, cell.source, cell.note or "") for cell in cells if cell.value is not None})
    lines = [
        f"Paper's values, {CERTAINTY[certainty]}: {source}{'; ' if note else ''}{note}."
        for certainty, source, note in known
    ]
    if table.is_papers_own and table.protocol not in PUBLISHED:
        lines.append(f"The paper's values belong to its own protocol, not to {table.protocol}: compare differences.")
    elif table.paper and not table.is_papers_own:
        lines.append(f"The paper's values are of {' '.join(table.paper_of)}, not of this corpus: compare differences.")
    return lines


def _run_notes(table: Table) -> list[str]:
    return [
        f"Hardware: {_tally(map(_hardware, table.records))}.",
        f"Commit: {_tally(map(_commit, table.records))}.",
        f"Checkpoint evaluated: {_tally(record.checkpoint for record in table.records)}.",
        "tokens/s: target tokens per second of training, mean over seeds; runs that shared a device shared its speed. "
        "GPU-hours: time in training steps × devices, of a shared device the share, summed over seeds; validation, "
        "saving and scoring come on top.",
    ]


def _legend() -> str:
    return f"{MISSING}: none, or not measured. {UNKNOWN}: not known here."


def _hardware(record: Record) -> str:
    hardware = record.hardware
    text = f"{hardware.cpu}, {hardware.cpus} cores"
    if record.gpu_hours is not None:
        text = f"{hardware.devices} × {hardware.device} ({text})"
    return text if hardware.runs_per_device == 1 else f"{text}, shared by {hardware.runs_per_device} runs"


def _commit(record: Record) -> str:
    """The commit in twelve digits, still marked if dirty."""
    commit, _, dirty = record.commit.partition("-")
    return f"{commit[:12]}-{dirty}" if dirty else commit[:12]


def _tally(values: Iterable[str]) -> str:
    """The different values, each with its number of runs when there are several."""
    counts = sorted(Counter(values).items())
    if len(counts) == 1:
        return counts[0][0]
    return "; ".join(f"{value} ({n} run{'s' if n > 1 else ''})" for value, n in counts)
