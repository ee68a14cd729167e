"""Encode text with a sentencepiece model and write it in fairseq's memory-mapped format, with its dictionary.

Pieces do not cross spaces, so a text is encoded word by word, and a word that was seen before is only looked up: that
is several times as fast as to encode whole lines, and gives the same ids.
"""

import struct
from array import array
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import sentencepiece

from memtrans.corpora.parallel import in_order
from memtrans.corpora.text import read_blocks

Encoded = tuple[np.ndarray, np.ndarray]  # the ids of some lines, one line after the other; how many each line has

WORDS = 1 << 18  # words remembered, twice: bounds the memory (100 MB), and still holds all that are frequent
LONGEST = 64  # characters of such a word: a text without spaces is all long ones, which do not come again
WORTH_IT = 1 << 25  # bytes of text for each process more: of less, one is done before another has started
MOST = 16  # processes: about as many as the one that reads can feed (a projection: benchmarks/README.md)
INDEX_VERSION = 1
DTYPES = {np.dtype(np.uint16): 8, np.dtype(np.uint32): 9}  # fairseq's numbers for the types of ids


def binarise(
    text: Path, model: Path, languages: tuple[str, str], splits: list[str], target: Path, workers: int
) -> None:
    """Write `target/<split>.<src>-<tgt>.<lang>.{bin,idx}` and `target/dict.<lang>.txt` (both the same) for `text/`.

    Every sentence ends in the end-of-sentence symbol, as fairseq's translation task expects.
    """
    entries = 0
    for language in languages:
        entries = write_pieces(model, target / f"dict.{language}.txt")
    names = [(split, language) for split in splits for language in languages]
    texts = {f"{split}.{'-'.join(languages)}.{language}": text / f"{split}.{language}" for split, language in names}
    with piece_encoder(model, texts.values(), workers) as encode:
        for name, path in texts.items():
            write_lines(target / name, encode(read_blocks(path)), entries)


class PieceEncoder:
    """Encodes blocks of whole lines, each ended by "\\n": UTF-8, words parted by spaces."""

    def __init__(self, model: Path) -> None:
        self.processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
        self.dtype = id_type(len(self.processor))
        self.words = _Words(self.processor, self.dtype.char)

    def __call__(self, block: bytes) -> Encoded:
        """Encode each line and its end."""
        words = block.decode().replace("\n", " \n ").split(" ")
        ids = np.frombuffer(bytearray().join(map(self.words.__getitem__, words)), self.dtype)
        return ids, np.diff(np.flatnonzero(ids == self.processor.eos_id()), prepend=-1)


class _Words(dict[str, bytes]):
    """The ids of words as they stand in a .bin file; the end of a line is a word too.

    Full, it begins anew, but still knows what it knew: what is asked for meanwhile stays.
    """

    def __init__(self, processor: sentencepiece.SentencePieceProcessor, typecode: str) -> None:
        self.processor, self.typecode = processor, typecode
        self.before: dict[str, bytes] = {}

    def __missing__(self, word: str) -> bytes:
        if len(self) >= WORDS:
            self.before = dict(self)
            self.clear()
        content = self.before.get(word)
        if content is None:
            ids = [self.processor.eos_id()] if word == "\n" else self.processor.encode(word)
            content = array(self.typecode, ids).tobytes()
        if len(word) <= LONGEST:
            self[word] = content
        return content


@contextmanager
def piece_encoder(
    model: Path, texts: Iterable[Path], workers: int
) -> Iterator[Callable[[Iterator[bytes]], Iterator[Encoded]]]:
    """Yield what encodes the blocks of these texts, in at most `workers` processes: as many as pay."""
    size = sum(path.stat().st_size for path in texts)
    with in_order(partial(PieceEncoder, model), min(workers, MOST, 1 + size // WORTH_IT)) as encode:
        yield encode


def id_type(entries: int) -> np.dtype:
    """The type in which fairseq stores the ids of a dictionary of `entries`."""
    return np.dtype(np.uint16 if entries < 65500 else np.uint32)


def write_lines(prefix: Path, encoded: Iterable[Encoded], entries: int) -> None:
    """Write `prefix.bin` and `prefix.idx`: fairseq's dataset, one item a line, for a dictionary of `entries`.

    The files are those of fairseq's own builder, which takes one tensor at a time and is too slow for millions.
    """
    dtype = id_type(entries)
    lines = array("i")  # 4 bytes a line are all that grows with the text
    with Path(f"{prefix}.bin").open("wb") as file:
        for ids, sizes in encoded:
            ids.astype(dtype, copy=False).tofile(file)
            lines.frombytes(sizes.astype(np.int32).tobytes())
    with Path(f"{prefix}.idx").open("wb") as file:
        file.write(b"MMIDIDX\0\0" + struct.pack("<QBQ", INDEX_VERSION, DTYPES[dtype], len(lines)))
        lines.tofile(file)
        begin = 0
        for first in range(0, len(lines), 1 << 20):
            ends = begin + np.cumsum(lines[first : first + (1 << 20)], dtype=np.int64) * dtype.itemsize
            np.concatenate([[begin], ends[:-1]]).tofile(file)
            begin = ends[-1]


def count_tokens(prefix: Path, entries: int) -> int:
    """Tokens of a text that is binarised with a dictionary of `entries`, with one end-of-sentence each line."""
    return Path(f"{prefix}.bin").stat().st_size // id_type(entries).itemsize


def write_pieces(model: Path, path: Path) -> int:
    """Write fairseq's dictionary of the pieces, which then have the same ids in both; return its number of entries.

    fairseq adds its own four symbols, which it does not write; the counts are not used.
    """
    processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
    pieces = (processor.id_to_piece(index) for index in range(processor.unk_id() + 1, len(processor)))
    path.write_text("".join(f"{piece} 1\n" for piece in pieces), encoding="utf-8", newline="\n")
    return len(processor)
