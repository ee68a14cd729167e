"""Read sentences: plain, .gz and .sgm files, one line at a time, UTF-8 or a clear error.

Only "\\n" ends a line. U+2028, U+0085 and their like occur inside sentences of real corpora (and `str.splitlines`
would break there), so never read these files with it.
"""

import gzip
import re
import zlib
from collections.abc import Iterator
from itertools import islice, zip_longest
from pathlib import Path
from typing import BinaryIO, cast
from xml.sax.saxutils import unescape

from memtrans.errors import UserError

_SEGMENT = re.compile(r"<seg\b[^>]*>(.*)</seg>", re.IGNORECASE)  # the sets are not valid XML: no parser reads them all
_QUOTES = {"&quot;": '"', "&apos;": "'"}


def read_lines(path: Path) -> Iterator[str]:
    """Yield the file's lines without their "\\n"; of an .sgm file the text of its segments.

    Raises UserError with file and line number for bytes that are not UTF-8, and for a damaged .gz file.
    """
    lines = _decoded(path)
    if path.name.removesuffix(".gz").endswith(".sgm"):
        return (unescape(match[1].strip(), _QUOTES) for line in lines if (match := _SEGMENT.search(line)))
    return lines


def read_pairs(source: Path, target: Path) -> Iterator[tuple[str, str]]:
    """Yield the aligned lines of two files. Raises UserError if one has more lines than the other."""
    lines, others = read_lines(source), read_lines(target)
    for pairs, (one, other) in enumerate(zip_longest(lines, others)):
        if one is None or other is None:
            rest = 1 + sum(1 for _ in (lines if other is None else others))
            counts = (pairs + rest, pairs) if other is None else (pairs, pairs + rest)
            raise UserError(
                f"unequal line counts: {source} has {counts[0]} lines, {target} has {counts[1]}; "
                "line n of one must translate line n of the other: mend the files and run again"
            )
        yield one, other


def read_blocks(path: Path, size: int = 1 << 20) -> Iterator[bytes]:
    """Yield a plain file in blocks of whole lines, of about `size` bytes."""
    with path.open("rb") as file:
        while block := file.read(size):
            yield block + file.readline()


def batches(lines: Iterator[str], size: int) -> Iterator[list[str]]:
    """The lines in lists of `size`, the last one shorter."""
    while batch := list(islice(lines, size)):
        yield batch


def _decoded(path: Path) -> Iterator[str]:
    try:
        with cast(BinaryIO, gzip.open(path) if path.suffix == ".gz" else path.open("rb")) as file:
            for number, line in enumerate(file, 1):
                yield _decode(line, number, path)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path}: damaged gzip file ({error}); get it again") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error


def _decode(line: bytes, number: int, path: Path) -> str:
    try:
        return line.removesuffix(b"\n").decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}, line {number}: invalid UTF-8 (byte 0x{line[error.start]:02x} at position {error.start + 1}); "
            "convert the file to UTF-8 and run again"
        ) from error
