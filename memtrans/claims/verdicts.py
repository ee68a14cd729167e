"""What the records say of a claim: supported, contradicted, undecided at this power, or not measured.

A claim needs all of its tests: it is supported if each difference has the claimed sign and the largest of the p-values
is small; contradicted if one has the other sign and a small p-value, multiplied by the number of tests, any of which
could have shown it. Holm's correction runs over all claims tested on one table.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Literal

from memtrans.claims.spec import Claim, Test
from memtrans.significance import Comparison, Difference, holm
from memtrans.significance.interval import LEVEL
from memtrans.sweeps_spec import SweepSpec
from memtrans.tables.recipe import difference_text
from memtrans.tables.rows import Row, Table

Answer = Literal["supported", "contradicted", "undecided", "not measured"]
Comparisons = Mapping[tuple[str, str], Comparison]


def compare(row: Row, other: Row, comparisons: Comparisons) -> Difference | None:
    """The difference of two rows over the seeds that both have; over sentences too, where they were compared so."""
    both = {seed: value - other.headlines[seed] for seed, value in row.headlines.items() if seed in other.headlines}
    if not both:
        return None
    kept = comparisons.get((row.setting or "", other.setting or ""))
    return kept.difference if kept and kept.fits(row.records, other.records) else Difference(both)


@dataclass(frozen=True)
class Finding:
    """One test on one table. `point`: the difference it is tested against, 0 or the claimed fraction of the other row.

    Differences are in points of the metric, row minus other; `claimed` is the sign that the claim gives them.
    """

    test: Test
    claimed: int
    difference: Difference | None = None
    why_not: str = ""  # why there is no difference
    point: float = 0.0
    published: float | None = None  # the published difference, in its own points
    expected: float | None = None  # the same in points of this table

    @property
    def p(self) -> float | None:
        return self.difference.p_value(self.point) if self.difference else None

    @property
    def as_claimed(self) -> bool:
        return self.difference is not None and (self.difference.mean - self.point) * self.claimed > 0

    def seeds_needed(self, effect: float | None, level: float) -> float | None:
        """Seeds that would see a true difference of `effect` in 80% of cases."""
        if self.difference is None or effect is None:
            return None
        return self.difference.seeds_for(effect - self.point, level)


@dataclass(frozen=True)
class Verdict:
    """What one table says of one claim."""

    claim: Claim
    table: Table
    findings: tuple[Finding, ...]
    p: float | None = None  # of the claim, before the correction
    adjusted: float | None = None  # after it
    claims: int = 0  # that were tested on this table

    @property
    def answer(self) -> Answer:
        if self.adjusted is None:
            return "not measured"
        if self.adjusted >= LEVEL:
            return "undecided"
        return "supported" if all(finding.as_claimed for finding in self.findings) else "contradicted"

    @property
    def seeds_for_published(self) -> float | None:
        """Seeds that would decide all tests if the published differences were true; None where one is not known."""
        return self._seeds([finding.expected for finding in self.findings])

    @property
    def seeds_for_found(self) -> float | None:
        """The same if the differences found here were true."""
        return self._seeds([finding.difference.mean if finding.difference else None for finding in self.findings])

    def _seeds(self, effects: Sequence[float | None]) -> float | None:
        """At the strictest level of the correction."""
        level = LEVEL / max(1, self.claims)
        pairs = zip(self.findings, effects, strict=True)
        needed = [finding.seeds_needed(effect, level) for finding, effect in pairs]
        return None if None in needed else max(n for n in needed if n is not None)


def judge(
    claims: Sequence[Claim], tables: Iterable[Table], sweeps: Mapping[str, SweepSpec], comparisons: Comparisons
) -> list[Verdict]:
    """A verdict of every claim on every table that it names, in the order of the claims."""
    tables = list(tables)
    verdicts = []
    for claim in claims:
        for sweep in (sweeps[name] for name in claim.sweeps):
            where = (sweep.corpus, sweep.size, sweep.protocol)
            found = [table for table in tables if (table.corpus, table.size, table.protocol) == where]
            for table in found:
                findings = tuple(_find(test, table, comparisons) for test in claim.tests)
                verdicts.append(Verdict(claim, table, findings, _p_of(findings)))
    return _corrected(verdicts)


def _corrected(verdicts: list[Verdict]) -> list[Verdict]:
    adjusted: dict[int, tuple[float, int]] = {}
    for table in {id(verdict.table) for verdict in verdicts}:
        tested = [i for i, v in enumerate(verdicts) if id(v.table) == table and v.p is not None]
        values = holm([p for i in tested if (p := verdicts[i].p) is not None])
        adjusted |= {i: (value, len(tested)) for i, value in zip(tested, values, strict=True)}
    return [
        replace(v, adjusted=adjusted[i][0], claims=adjusted[i][1]) if i in adjusted else v
        for i, v in enumerate(verdicts)
    ]


def _p_of(findings: Sequence[Finding]) -> float | None:
    values = [finding.p for finding in findings]
    if None in values:
        return None
    against = [finding.p for finding in findings if finding.p is not None and not finding.as_claimed]
    if against:
        return min(1.0, len(findings) * min(against))
    return max(value for value in values if value is not None)


def _find(test: Test, table: Table, comparisons: Comparisons) -> Finding:
    sign = (1 if test.direction == "better" else -1) * (-1 if table.metric == "perplexity" else 1)
    empty = Finding(test, sign, published=_published(test, table))
    rows, others = ([row for row in table.rows if row.label == name and row.records] for name in (test.row, test.than))
    for name, found in ((test.row, rows), (test.than, others)):
        if len(found) != 1:
            return replace(empty, why_not=f"{name}: {'several settings' if found else 'no record'}")
    (row,), (other,) = rows, others
    if row.evidence != other.evidence:
        return replace(empty, why_not=f"{test.row} and {test.than} were not scored alike")
    if unlike := row.unlike(other):
        return replace(empty, why_not=f"not trained alike: {difference_text(row.recipe, other.recipe, unlike)}")
    difference = compare(row, other, comparisons)
    if difference is None or not difference.testable:
        return replace(empty, difference=difference, why_not="not enough seeds in common")
    than = fmean(other.headlines.values())
    return replace(
        empty,
        difference=difference,
        point=sign * test.by * than + 0.0,  # never a negative zero
        expected=_expected(test, table, than),
    )


def _published(test: Test, table: Table) -> float | None:
    cells = [table.paper.get(name) for name in (test.row, test.than)]
    values = [cell.value for cell in cells if cell is not None and cell.value is not None]
    return values[0] - values[1] if len(values) == 2 else None


def _expected(test: Test, table: Table, than: float) -> float | None:
    """The published difference; of perplexities, scaled by the scores of the rows compared with."""
    published = _published(test, table)
    if published is not None and table.metric == "perplexity" and (cell := table.paper.get(test.than)) and cell.value:
        return published * than / cell.value
    return published
