"""The report as one HTML page. It loads nothing, so it works from the file system and without a network."""

import json
from collections.abc import Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from memtrans.report.attention import AttentionSection
from memtrans.report.figures import Drawing, forest, memory_sizes
from memtrans.report.findings import Findings, TableFinding
from memtrans.report.grids import (
    BREAK,
    VERDICT_NOTES,
    Grid,
    claims_grids,
    cost_grid,
    rows_grid,
    seeds_grid,
    sources_grid,
    unmeasured_claims,
)
from memtrans.report.provenance import Provenance

VERDICTS = {"supported": "✓", "contradicted": "✗", "undecided": "?", "not measured": "–"}


def render(
    findings: Findings,
    attention: AttentionSection,
    lesions: Sequence[tuple[Drawing, Grid]],
    provenance: Provenance,
    digest: str,
) -> str:
    """The page. `digest` is kept in its head: it says what the page was made from."""
    environment = Environment(
        loader=PackageLoader("memtrans.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"cell": _cell, "note": _note, "embedded": _embedded}

    def included(name: str) -> Markup:
        """A file of the templates as it stands."""
        return Markup(environment.get_template(name).render())

    return environment.get_template("page.html").render(
        style=included("style.css"),
        script=included("maps.js"),
        digest=digest,
        runs=sum(len(row.row.records) for found in findings.tables for row in found.rows),
        claims=claims_grids(findings),
        claim_notes=VERDICT_NOTES,
        waiting=unmeasured_claims(findings),
        sources=sources_grid(findings),
        counts=_counts(findings),
        tables=[_section(found) for found in findings.tables],
        costs=[cost_grid(found) for found in findings.tables],
        unmeasured=[table.title for table in findings.unmeasured],
        missing=findings.missing,
        attention=attention,
        lesions=lesions,
        provenance=provenance,
    )


def drawings(found: TableFinding) -> list[Drawing]:
    """The figures of a table; none where nothing can be compared."""
    return [drawing for drawing in (forest(found), memory_sizes(found)) if drawing]


def _section(found: TableFinding) -> dict[str, Any]:
    return {"grid": rows_grid(found), "seeds": seeds_grid(found), "drawings": drawings(found)}


def _counts(findings: Findings) -> list[tuple[str, str, int]]:
    """How many claims got each answer, where they were tested."""
    answers: list[str] = [verdict.answer for verdict in findings.verdicts]
    return [(name, mark, answers.count(name)) for name, mark in VERDICTS.items() if name in answers]


def _cell(text: str) -> Markup:
    """A cell: lines under each other, a verdict as a badge."""
    if text in VERDICTS:
        mark = Markup('<span aria-hidden="true">{}</span> ').format(VERDICTS[text])
        return Markup('<span class="verdict {}">{}{}</span>').format(text.replace(" ", "-"), mark, text)
    return Markup("<br>").join(escape(line) for line in text.split(BREAK))


def _note(text: str) -> Markup:
    """A note; what stands between backquotes is code."""
    pieces = [escape(piece) for piece in text.split("`")]
    return Markup("").join(Markup("<code>{}</code>").format(p) if i % 2 else p for i, p in enumerate(pieces))


def _embedded(data: object) -> Markup:
    """JSON that cannot end the element that holds it."""
    return Markup(json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("</", "<\\/"))
