"""The report as one HTML page. It loads nothing, so it works from the file system and without a network."""

import base64
import json
import re
import zlib
from collections.abc import Iterable, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from memtrans.report.blocks import Block, Html, Section
from memtrans.report.grids import BREAK
from memtrans.report.sections import VERDICTS


def render(sections: Sequence[Section], digest: str) -> str:
    """The page. `digest` is kept in its head: it says what the page was made from."""
    environment = Environment(
        loader=PackageLoader("memtrans.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    styles: dict[str, str] = {}

    def styled(svg: str) -> Markup:
        """A drawing whose elements have classes of the page: most styles are those of many elements."""
        return Markup(
            re.sub(
                r'(<(?!svg)[^>]*?) style="([^"]*)"',
                lambda found: f'{found[1]} class="{styles.setdefault(found[2], f"s{len(styles)}")}"',
                svg,
            )
        )

    environment.filters |= {"cell": _cell, "note": _note, "embedded": _embedded, "packed": _packed, "styled": styled}
    blocks: Any = environment.get_template("blocks.html").module

    def shown(of: Iterable[Block]) -> Markup:
        """Blocks as HTML: each by the macro that is named after its kind."""
        return Markup("").join(
            Markup(environment.get_template(block.template).render(**block.values))
            if isinstance(block, Html)
            else getattr(blocks, type(block).__name__.lower())(block, shown)
            for block in of
        )

    def included(name: str) -> Markup:
        """A file of the templates as it stands."""
        return Markup(environment.get_template(name).render())

    body = [(section, shown(section.blocks)) for section in sections]
    return environment.get_template("page.html").render(
        style=included("style.css") + Markup("\n".join(f"svg .{name} {{ {style} }}" for style, name in styles.items())),
        script=included("page.js"),
        digest=digest,
        body=body,
    )


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


def _packed(text: str) -> str:
    """Text that the page's script unpacks: deflated, in base64."""
    return base64.b64encode(zlib.compress(text.encode(), 9)).decode()
