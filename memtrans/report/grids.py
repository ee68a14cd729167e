"""The report's tables as text: one description, rendered as HTML, Markdown and LaTeX alike."""

import math
from dataclasses import dataclass

from memtrans.claims import Finding, Verdict
from memtrans.records import NAMES
from memtrans.report.findings import Findings, RowFinding, TableFinding
from memtrans.significance import Difference
from memtrans.significance.interval import MOST_SEEDS
from memtrans.tables.cells import CONTINUED, MISSING, mean, name, started
from memtrans.tables.notes import CERTAINTY, describe
from memtrans.tables.rows import BASELINE
from memtrans.tables.stats import Summary, summarise

BREAK = "\n"  # between the lines of a cell


@dataclass(frozen=True)
class Grid:
    """A table of text; the first column is the head of its row. Columns in `wide` hold prose, the others numbers."""

    anchor: str
    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    wide: tuple[int, ...] = (0,)


VERDICT_NOTES = (
    "Verdict: all tests of a claim must hold. Supported: every difference has the claimed sign, and the largest p, "
    "corrected, is below 0.05. Contradicted: a difference has the other sign, and its p, times the number of tests and "
    "corrected, is below 0.05. Else undecided at this power. Corrected p: Holm's, over the claims of one corpus.",
    "Seeds to decide: how many would give a chance of 80% to see, at the strictest level of the correction, a "
    "difference like the published one (of perplexity: the same percentage) / like the one found here. "
    f"∞: more than {MOST_SEEDS:,}: a larger test set is needed. –: not known. An order of magnitude: the spread of "
    "these few seeds is taken for the true one.",
    "Published: of another corpus and larger models: signs compare, and of perplexities percentages, not points.",
)


def claims_grids(findings: Findings) -> list[Grid]:
    """The verdicts of each corpus that claims were tested on."""
    found: dict[str, list[Verdict]] = {}
    for verdict in findings.verdicts:
        if verdict.answer != "not measured":
            found.setdefault(verdict.table.title, []).append(verdict)
    return [_claims(title, verdicts) for title, verdicts in found.items()]


def unmeasured_claims(findings: Findings) -> list[str]:
    """Where claims wait for records: the table and how many of its claims."""
    titles = [verdict.table.title for verdict in findings.verdicts if verdict.answer == "not measured"]
    return [f"{title} ({titles.count(title)} claims)" for title in dict.fromkeys(titles)]


def _claims(title: str, verdicts: list[Verdict]) -> Grid:
    head = ("claim", "verdict", "test", "Δ, 95% interval", "published Δ", "p", "corrected p", "seeds to decide")
    over = sorted({f.difference.over for verdict in verdicts for f in verdict.findings if f.difference})
    table = verdicts[0].table
    notes = [f"Δ: {NAMES[table.metric]}, first row minus second, mean over seeds. Intervals: over {', '.join(over)}."]
    margins = {finding.point: finding for v in verdicts for finding in v.findings if finding.test.by}
    notes += [
        f"{finding.test.by:.0%} of {finding.test.than}: the claim needs a Δ beyond {points(point)}."
        for point, finding in margins.items()
    ]
    anchor = f"claims-{table.corpus}-{table.size}-{table.protocol}"
    return Grid(anchor, f"Claims tested on {title}", head, tuple(map(_claim, verdicts)), tuple(notes), wide=(0, 1, 2))


def _claim(verdict: Verdict) -> tuple[str, ...]:
    findings = verdict.findings
    return (
        verdict.claim.says,
        verdict.answer,
        BREAK.join(f"{finding.test.row} − {finding.test.than}" for finding in findings),
        BREAK.join(_found(finding) for finding in findings),
        BREAK.join(points(finding.published) for finding in findings),
        probability(verdict.p),
        probability(verdict.adjusted),
        f"{seeds(verdict.seeds_for_published)} / {seeds(verdict.seeds_for_found)}",
    )


def _found(finding: Finding) -> str:
    if finding.difference is None or finding.why_not:
        return finding.why_not
    return f"{points(finding.difference.mean)} {interval(finding.difference)}"


def sources_grid(findings: Findings) -> Grid:
    """Where each claim was found, and how surely."""
    claims = {verdict.claim.id: verdict.claim for verdict in findings.verdicts}.values()
    rows = tuple((claim.says, claim.source, CERTAINTY[claim.certainty]) for claim in claims)
    return Grid("sources", "Where the claims come from", ("claim", "source", "how surely"), rows, wide=(0, 1, 2))


def rows_grid(found: TableFinding) -> Grid:
    """The rows of a table with their differences to the baseline and what these are worth."""
    published = bool(found.table.paper)
    head = ("model", found.unit, "seeds", f"Δ {BASELINE}", "95% interval", "p", "corrected p")
    rows = tuple(
        (
            row.row.label,
            mean(row.score),
            str(row.score.n),
            *_difference(row),
            *((_published(row, found),) if published else ()),
        )
        for row in found.rows
    )
    notes = list(dict.fromkeys(f"{describe(row.row.records[0].headline)}." for row in found.rows))
    tested = [row.difference for row in found.rows if row.difference and row.difference.testable]
    over = ", or ".join(sorted({difference.over for difference in tested}))
    if tested:
        notes.append(
            f"±: sample standard deviation over seeds. Interval and p: over {over}, against the {BASELINE} of the same "
            f"seed. Corrected p: Holm's, over the {sum(row.adjusted is not None for row in found.rows)} rows."
        )
    else:
        notes.append(
            "No interval, no p: they need two seeds of a row, or its translations compared with the baseline's."
        )
    if found.table.metric == "perplexity":
        notes.append("Lower is better. Sums over sentences were not kept, so the test set counts as given.")
    if published and not found.table.is_papers_own:
        sizes = "percentages" if found.table.metric == "perplexity" else "sizes"
        notes.append(
            f"Published Δ: of {' '.join(found.table.paper_of)}, another corpus: compare signs and {sizes} only."
        )
    return Grid(
        found.anchor, found.table.title, (*head, "published Δ") if published else head, rows, tuple(notes), wide=(0,)
    )


def _published(row: RowFinding, found: TableFinding) -> str:
    return "baseline" if row.is_baseline else points(found.table.paper_difference(row.row.label))


def _difference(row: RowFinding) -> tuple[str, ...]:
    if row.is_baseline or row.difference is None:
        return ("baseline" if row.is_baseline else MISSING, *[MISSING] * 3)
    d = row.difference
    spread = mean(Summary(d.mean, d.spread, d.n), sign=True)
    return spread, interval(d), probability(d.p_value()), probability(row.adjusted)


def continued_grid(found: TableFinding) -> Grid | None:
    """The runs that continue others, read against these; None where there are none."""
    table = found.table
    if not table.continued:
        return None
    rows = tuple(
        (
            name(row, table),
            started(row),
            mean(summarise(row.headlines)),
            str(len(row.headlines)),
            mean(table.gain(row), sign=True),
            f"{row.records[0].updates:,}",
            str(row.records[0].config["train"]["lr"]),
        )
        for row in table.continued
    )
    head = ("model", "further tokens", found.unit, "seeds", "Δ before", "further updates", "learning rate")
    return Grid(f"{found.anchor}-continued", "Continued with more memory", head, rows, (CONTINUED,))


def seeds_grid(found: TableFinding) -> Grid | None:
    """The paired tests of each seed over sentences; None where there are none."""
    comparisons = [row.comparison for row in found.rows if row.comparison]
    if not comparisons:
        return None
    rows = tuple(
        (c.label, str(p.seed), points(p.difference), probability(p.bootstrap_p), probability(p.randomisation_p))
        for c in comparisons
        for p in c.pairs
    )
    first = comparisons[0]
    notes = (
        f"sacreBLEU's paired tests of the {first.sentences:,} sentences against the {BASELINE} of the same seed: "
        f"bootstrap (one tail) `{first.bootstrap_signature}`, approximate randomisation (two tails) "
        f"`{first.randomisation_signature}`. They say whether two trained models differ, not whether models trained "
        "again would. Not corrected.",
        f"References: sha256 `{first.references}`.",
    )
    head = ("model", "seed", f"Δ {BASELINE}", "p, paired bootstrap", "p, approximate randomisation")
    return Grid(f"{found.anchor}-seeds", "Seed by seed, over sentences", head, rows, notes)


def cost_grid(found: TableFinding) -> Grid:
    """What the rows of a table cost."""
    rows = []
    for row in found.all_rows:
        records = row.records
        hours = [record.gpu_hours for record in records if record.gpu_hours is not None]
        devices = sorted({record.hardware.device for record in records})
        sharing = sorted({record.hardware.runs_per_device for record in records})
        rows.append(
            (
                row.label,
                f"{records[0].parameters:,}",
                f"{records[0].updates:,}",
                f"{sum(record.tokens for record in records) / len(records) / 1e6:,.1f}",
                f"{sum(record.tokens_per_second for record in records) / len(records):,.0f}",
                f"{sum(hours):,.2f}" if hours else MISSING,
                ", ".join(devices),
                "–".join(map(str, sharing)),
            )
        )
    head = ("model", "parameters", "updates", "Mtokens", "tokens/s", "GPU-hours", "device", "runs side by side")
    notes = (
        "Tokens: target tokens of one run. tokens/s: mean over seeds; runs side by side share a device's speed. "
        "GPU-hours: all seeds, of a shared device the share, training steps alone.",
    )
    return Grid(f"{found.anchor}-cost", found.table.title, head, tuple(rows), notes, wide=(0, 6))


def points(value: float | None) -> str:
    """A difference in points: two decimals, a sign, a real minus."""
    return MISSING if value is None else mean(Summary(value, None, 1), sign=True)


def interval(difference: Difference) -> str:
    ends = difference.interval()
    return f"[{_end(ends[0])}, {_end(ends[1])}]" if ends else MISSING


def _end(value: float) -> str:
    """An end of an interval; one near 0 with more digits, so that its side of 0 can be seen."""
    return points(value) if abs(value) >= 0.005 else f"{value:+.1g}".replace("-", "−")


def probability(value: float | None) -> str:
    if value is None:
        return MISSING
    if value < 0.0005:
        return "< 0.001"
    return f"{value:.2f}" if value >= 0.1 else f"{value:.4f}"


def seeds(value: float | None) -> str:
    if value is None:
        return MISSING
    return "∞" if math.isinf(value) else f"{value:,.0f}"
