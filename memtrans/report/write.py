"""Writes the report: `index.html`, `REPORT.md` and `tables.tex` in `<results>/report/`."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from memtrans.errors import UserError
from memtrans.files import write_text
from memtrans.report.blocks import Block, Fold, Html, Notes, Part, Section, Text, walk
from memtrans.report.figures import Drawing
from memtrans.report.grids import Grid
from memtrans.report.page import render
from memtrans.report.sections import gather_sections
from memtrans.report.texts import latex, markdown

FOLDER = "report"
HEAD = """# Memory Transformer, reproduced: report

Made by `python -m scripts.report` from the records in `results/`; not written by hand. `index.html` beside this file
has the same with figures.

"""
TEX_HEAD = """% Made by `python -m scripts.report`; not written by hand. Needs \\usepackage{booktabs,graphicx}.

"""


def make(results: Path, configs: Path) -> dict[str, str]:
    """The report's files by name. The same results give the same Markdown and LaTeX, byte for byte."""
    sections = gather_sections(results, configs)
    blocks = [block for section in sections for block in walk(section.blocks)]
    text = HEAD + "\n".join(filter(None, map(_section, sections)))
    tex = TEX_HEAD + "\n".join(latex(block) for block in blocks if isinstance(block, Grid))
    drawn = [block.data for block in blocks if isinstance(block, Drawing)]
    digest = _digest(text, tex, drawn, [block.values for block in blocks if isinstance(block, Html)])
    return {"REPORT.md": text, "tables.tex": tex, "index.html": render(sections, digest)}


def _section(section: Section) -> str:
    """A section in Markdown; nothing if it has only what a page shows."""
    texts = list(_texts(section.blocks))
    return "\n".join([f"## {section.title}\n", *texts]) if texts else ""


def _texts(blocks: Iterable[Block], title: str = "") -> Iterator[str]:
    """Blocks in Markdown; a table that is called as the part it stands in (`title`) needs no second heading."""
    for block in blocks:
        match block:
            case Grid():
                yield markdown(block, heading="" if block.title == title else f"#### {block.title}")
            case Part():
                if texts := list(_texts(block.blocks, block.title)):  # not of a part that is drawn
                    yield from (f"### {block.title}\n", *texts)
            case Fold():
                yield from _texts(block.blocks, title)
            case Text():
                yield f"{block.text}\n"
            case Notes():
                yield "".join(f"- {line}\n" for line in block.lines)


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


def _digest(*contents: object) -> str:
    return hashlib.sha256(json.dumps(contents, sort_keys=True, default=str).encode()).hexdigest()


def _made_from(page: str) -> str | None:
    found = re.search(r'<meta name="made-from" content="([0-9a-f]{64})">', page)
    return found[1] if found else None
