"""What a section of the report is built of. A page shows all of it; Markdown and LaTeX leave out what is drawn."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from memtrans.report.figures import Drawing
from memtrans.report.grids import Grid


@dataclass(frozen=True)
class Text:
    """A paragraph; what stands between backquotes is code."""

    text: str


@dataclass(frozen=True)
class Notes:
    """A list of remarks, as below a table."""

    lines: tuple[str, ...]


@dataclass(frozen=True)
class Fold:
    """What a page shows when asked to; the others show it without the title, as what is in it has its own.

    What is `packed` takes a quarter of the room in the page, but is not found there by a search before it is opened.
    """

    title: str
    blocks: tuple["Block", ...]
    packed: bool = False


@dataclass(frozen=True)
class Part:
    """A part of a section, with a heading that the index leads to."""

    anchor: str
    title: str
    blocks: tuple["Block", ...]


@dataclass(frozen=True)
class Html:
    """A template of the page, and its values: of no other rendering."""

    template: str
    values: Mapping[str, Any] = field(default_factory=dict)


Block: TypeAlias = Grid | Drawing | Text | Notes | Fold | Part | Html


@dataclass(frozen=True)
class Section:
    """A chapter of the report."""

    anchor: str
    title: str
    blocks: tuple[Block, ...]

    @property
    def parts(self) -> list[Part]:
        return [block for block in self.blocks if isinstance(block, Part)]


def walk(blocks: Iterable[Block]) -> Iterator[Block]:
    """All blocks in the report's order, with those inside of others."""
    for block in blocks:
        yield block
        if isinstance(block, Fold | Part):
            yield from walk(block.blocks)
