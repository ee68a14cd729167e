"""Writes the report: `index.html`, `REPORT.md` and `tables.tex` in `<results>/report/`."""

import hashlib
import json
import re
from pathlib import Path

from memtrans.errors import UserError
from memtrans.files import write_text
from memtrans.report.attention import AttentionSection
from memtrans.report.findings import Findings
from memtrans.report.grids import (
    VERDICT_NOTES,
    Grid,
    claims_grids,
    cost_grid,
    rows_grid,
    seeds_grid,
    sources_grid,
    unmeasured_claims,
)
from memtrans.report.lesions import lesion_drawing, lesion_grid, load_lesions
from memtrans.report.page import drawings, render
from memtrans.report.provenance import Provenance
from memtrans.report.texts import latex, markdown

FOLDER = "report"
HEAD = """# Memory Transformer, reproduced: report

Made by `python -m scripts.report` from the records in `results/`; not written by hand. `index.html` beside this file
has the same with figures.

"""
LEGEND = """## How to read the verdicts

{notes}
Claims that wait for records: {waiting}.

"""
TEX_HEAD = """% Made by `python -m scripts.report`; not written by hand. Needs \\usepackage{booktabs,graphicx}.

"""


def make(results: Path, configs: Path) -> dict[str, str]:
    """The report's files by name. The same results give the same Markdown and LaTeX, byte for byte."""
    findings = Findings.gather(results, configs)
    attention, records = AttentionSection.gather(results), load_lesions(results)
    lesions = [(lesion_drawing(record), lesion_grid(record)) for record in records]
    provenance = Provenance.gather(findings, results)
    grids = [*_grids(findings), *attention.grids, *(grid for _, grid in lesions)]
    legend = "".join(f"- {note}\n" for note in VERDICT_NOTES)
    text = HEAD + LEGEND.format(notes=legend, waiting="; ".join(unmeasured_claims(findings)) or "none")
    text += "\n".join(markdown(grid) for grid in grids)
    tex = TEX_HEAD + "\n".join(latex(grid) for grid in grids)
    figures = [drawing.data for found in findings.tables for drawing in drawings(found)]
    figures += [drawing.data for drawing in (*attention.drawings, *(drawing for drawing, _ in lesions))]
    digest = _digest(text, tex, figures, attention.maps, provenance.written)
    page = render(findings, attention, lesions, provenance, digest)
    return {"REPORT.md": text, "tables.tex": tex, "index.html": page}


def write(results: Path, configs: Path) -> Path:
    """Write all files, each whole or not at all; returns the page's path."""
    for name, content in make(results, configs).items():
        write_text(results / FOLDER / name, content)
    return results / FOLDER / "index.html"


def check(results: Path, configs: Path) -> None:
    """Raise UserError if a file does not follow from the records.

    Of the page that is said by the digest in its head: another version of matplotlib draws a little differently.
    """
    for name, content in make(results, configs).items():
        path = results / FOLDER / name
        there = path.read_text(encoding="utf-8") if path.is_file() else ""
        same = _made_from(there) == _made_from(content) if name == "index.html" else there == content
        if not same:
            raise UserError(f"{path} is stale: it does not follow from the records; run `python -m scripts.report`")


def _grids(findings: Findings) -> list[Grid]:
    """In the order of the report."""
    tables = [grid for found in findings.tables for grid in (rows_grid(found), seeds_grid(found)) if grid]
    return [*claims_grids(findings), sources_grid(findings), *tables, *map(cost_grid, findings.tables)]


def _digest(*contents: object) -> str:
    return hashlib.sha256(json.dumps(contents, sort_keys=True).encode()).hexdigest()


def _made_from(page: str) -> str | None:
    found = re.search(r'<meta name="made-from" content="([0-9a-f]{64})">', page)
    return found[1] if found else None
