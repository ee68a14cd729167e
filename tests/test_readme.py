"""README's numbers of the claims: typed by hand, and true to the results."""

import re
from pathlib import Path

from memtrans.report.findings import Findings

ROOT = Path(__file__).resolve().parent.parent
HEAD = "| claim | corpus | verdict | corrected p |"


def rows() -> list[list[str]]:
    """The cells of README's table of verdicts."""
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    table = lines[lines.index(HEAD) + 2 :]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[: table.index("")]]


def says(text: str, p: float | None) -> bool:
    """Whether a p-value as README writes it, such as "0.20" or "< 0.001", is this one, rounded."""
    if p is None or text.startswith("<"):
        return p is not None and p < float(text.removeprefix("<"))
    return round(p, len(text.partition(".")[2])) == float(text)


def test_verdicts_in_the_readme_are_those_of_the_results():
    measured = [
        verdict
        for verdict in Findings.gather(ROOT / "results", ROOT / "configs").verdicts
        if verdict.answer != "not measured"
    ]
    typed = rows()
    corpora = list(dict.fromkeys(corpus for _, corpus, _, _ in typed))
    found = [v for corpus in corpora for v in measured if v.table.title.startswith(corpus)]
    assert len(typed) == len(found) == len(measured)
    for (_, _, answer, p), verdict in zip(typed, found, strict=True):
        p_values = f"p {verdict.p}, corrected {verdict.adjusted}"
        told = f"{verdict.claim.id} on {verdict.table.title}: {verdict.answer}, {p_values}"
        assert re.match(r"[a-z]+", answer)[0] == verdict.answer, told
        assert says(p, verdict.adjusted), told
        if uncorrected := re.search(r"uncorrected p: ([\d.]+)", answer):
            assert says(uncorrected[1], verdict.p), told
        if "with every seed" in answer:
            (below,) = (f for f in verdict.findings[:1] if f.difference)
            assert max(below.difference.by_seed.values()) < 0, told
