"""Writing TABLES.md and showing it: plain Markdown for a pipe, drawn tables for a terminal."""

import sys
from pathlib import Path

from memtrans.files import write_text
from memtrans.tables import tables_text


def write_and_show(results: Path, configs: Path) -> None:
    """Write `<results>/TABLES.md` from the records beside it, and print it."""
    text = tables_text(results, configs)
    write_text(results / "TABLES.md", text)
    show(text)


def show(text: str) -> None:
    """Print tables; on a terminal drawn, without the last columns where it is too narrow."""
    if not sys.stdout.isatty():
        print(text, end="")
        return
    from rich.console import Console
    from rich.markdown import Markdown

    console = Console()
    fitting = "\n".join(_cut(line, console.width) for line in text.splitlines())
    console.print(Markdown(fitting))
    if len(fitting) < len(text.rstrip()):
        console.print("The terminal is too narrow for all columns; TABLES.md has them.")


def _cut(line: str, width: int) -> str:
    """A table's line without the columns beyond `width`. Cells are padded, so all lines of a table lose the same."""
    if not line.startswith("|") or len(line) <= width:
        return line
    return line[: line.rfind(" | ", 0, width)] + " |"
