"""Encode text with a sentencepiece model and write it in fairseq's memory-mapped format, with its dictionary.

fairseq is imported inside the functions: it takes seconds, and a corpus that is already prepared needs none of it.
"""

from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

import numpy as np
import sentencepiece

from memtrans.corpora.text import batches, read_lines

Encoded = tuple[np.ndarray, np.ndarray]  # the ids of some lines, one line after the other; how many each line has

BATCH = 20_000  # sentences encoded at once: bounds the memory, and is enough for the threads to share


def binarise(
    text: Path, model: Path, languages: tuple[str, str], splits: list[str], target: Path, workers: int
) -> None:
    """Write `target/<split>.<src>-<tgt>.<lang>.{bin,idx}` and `target/dict.<lang>.txt` (both the same) for `text/`.

    Every sentence ends in the end-of-sentence symbol, as fairseq's translation task expects.
    """
    processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
    for language in languages:
        write_pieces(processor, target / f"dict.{language}.txt")
    for split in splits:
        for language in languages:
            encoded = encode_pieces(processor, read_lines(text / f"{split}.{language}"), workers)
            write_lines(target / f"{split}.{'-'.join(languages)}.{language}", encoded, len(processor))


def count_tokens(prefix: Path) -> int:
    """Tokens of a binarised text, with one end-of-sentence each line."""
    import memtrans_fairseq  # noqa: F401  # isort: skip  # makes the next import work
    from fairseq.data import indexed_dataset

    # the dataset stays referenced while it is read: fairseq unmaps the file when the dataset is collected
    dataset = indexed_dataset.MMapIndexedDataset(str(prefix))
    return int(dataset.sizes.sum())


def encode_pieces(
    processor: sentencepiece.SentencePieceProcessor, lines: Iterator[str], workers: int
) -> Iterator[Encoded]:
    """Encode each line and its end."""
    for batch in batches(lines, BATCH):
        pieces = processor.encode(batch, add_eos=True, num_threads=workers)
        sizes = np.fromiter(map(len, pieces), np.int64, len(pieces))
        yield np.fromiter(chain.from_iterable(pieces), np.int64, sizes.sum()), sizes


def write_lines(prefix: Path, encoded: Iterable[Encoded], entries: int) -> None:
    """Write `prefix.bin` and `prefix.idx`: fairseq's dataset, one item a line, for a dictionary of `entries`.

    The files are those of fairseq's own builder, which takes one tensor at a time and is too slow for millions.
    """
    import memtrans_fairseq  # noqa: F401  # isort: skip
    from fairseq.data import indexed_dataset

    dtype = indexed_dataset.best_fitting_int_dtype(entries)
    lengths: list[int] = []
    with Path(f"{prefix}.bin").open("wb") as file:
        for ids, sizes in encoded:
            ids.astype(dtype).tofile(file)
            lengths += sizes.tolist()
    with indexed_dataset.MMapIndexedDataset.Index.writer(f"{prefix}.idx", dtype) as index:
        index.write(lengths)


def write_pieces(processor: sentencepiece.SentencePieceProcessor, path: Path) -> None:
    """Write fairseq's dictionary of the pieces, which then have the same ids in both."""
    import memtrans_fairseq  # noqa: F401  # isort: skip
    from fairseq.data import Dictionary

    dictionary = Dictionary()
    for index in range(dictionary.nspecial, len(processor)):
        dictionary.add_symbol(processor.id_to_piece(index))
    dictionary.save(str(path))


def read_dictionary(path: Path) -> dict[str, int]:
    """The ids that fairseq gives to the words of a dictionary, its special symbols included."""
    import memtrans_fairseq  # noqa: F401  # isort: skip
    from fairseq.data import Dictionary

    return Dictionary.load(str(path)).indices
