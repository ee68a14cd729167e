"""Vocabularies of whole words, as word-level language models use them: what stands between whitespace is a word."""

from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import repeat
from pathlib import Path

import numpy as np

from memtrans.corpora.binarise import Encoded
from memtrans.corpora.text import batches, read_lines
from memtrans.files import write_text

END, UNKNOWN = "</s>", "<unk>"  # fairseq's names; the text may hold the second, which is then the same symbol
RESERVED = ("<s>", "<pad>", END)  # fairseq's other symbols: a word of that name could not be told from them
MISSING = -1
BATCH = 1000  # lines encoded at once: bounds the memory


def count_words(text: Path) -> Counter[str]:
    """How often each word occurs in a text, `<unk>` left out."""
    words: Counter[str] = Counter()
    for line in read_lines(text):
        words.update(line.split())
    del words[UNKNOWN]
    return words


def write_words(words: Mapping[str, int], size: int | None, path: Path) -> None:
    """Write the `size` most frequent words (None: all), or fewer if there are no more, as fairseq's dictionary.

    They stand by falling frequency, and ties by code point.
    """
    ordered = sorted(words.items(), key=lambda item: (-item[1], item[0]))
    write_text(path, "".join(f"{word} {count}\n" for word, count in ordered[:size]))


def read_words(path: Path) -> dict[str, int]:
    """The ids that fairseq gives to the words of a dictionary, its special symbols included."""
    words = (line.rpartition(" ")[0] for line in read_lines(path))
    return {word: index for index, word in enumerate([*RESERVED, UNKNOWN, *words])}


def encode_words(lines: Iterator[str], index: Mapping[str, int]) -> Iterator[Encoded]:
    """Encode each line and its end; a word that `index` lacks becomes MISSING. No line may hold a RESERVED word."""
    for batch in batches(lines, BATCH):
        words = f" {END} ".join([*batch, ""]).split()
        ids = np.fromiter(map(index.get, words, repeat(MISSING)), np.int64, len(words))
        yield ids, np.diff(np.flatnonzero(ids == index[END]), prepend=-1)
