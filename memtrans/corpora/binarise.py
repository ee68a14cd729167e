"""Encode the text with the sentencepiece model and write it in fairseq's memory-mapped format, one joined dictionary.

fairseq is imported inside the functions: it takes seconds, and a corpus that is already prepared needs none of it.
"""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import sentencepiece

from memtrans.corpora.text import read_lines

BATCH = 20_000  # sentences encoded at once: bounds the memory, and is enough for the threads to share


def binarise(
    text: Path, model: Path, languages: tuple[str, str], splits: list[str], target: Path, workers: int
) -> None:
    """Write `target/<split>.<src>-<tgt>.<lang>.{bin,idx}` and `target/dict.<lang>.txt` (both the same) for `text/`.

    Every sentence ends in the end-of-sentence symbol, as fairseq's translation task expects.
    """
    import memtrans_fairseq  # noqa: F401  # isort: skip  # makes the next import work
    import torch
    from fairseq.data import indexed_dataset

    processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
    _write_dictionaries(processor, languages, target)
    for split in splits:
        for language in languages:
            prefix = target / f"{split}.{'-'.join(languages)}.{language}"
            builder = indexed_dataset.make_builder(f"{prefix}.bin", impl="mmap", vocab_size=len(processor))
            for batch in _batches(text / f"{split}.{language}"):
                for ids in processor.encode(batch, add_eos=True, num_threads=workers):
                    builder.add_item(torch.tensor(ids, dtype=torch.int32))
            builder.finalize(f"{prefix}.idx")


def count_tokens(folder: Path, languages: tuple[str, str], split: str) -> tuple[int, int]:
    """Subword tokens of a binarised split, source and target, with one end-of-sentence each sentence."""
    import memtrans_fairseq  # noqa: F401  # isort: skip
    from fairseq.data import indexed_dataset

    prefixes = (folder / f"{split}.{'-'.join(languages)}.{language}" for language in languages)
    # both datasets stay referenced while they are read: fairseq unmaps the file when the dataset is collected
    source, target = (indexed_dataset.MMapIndexedDataset(str(prefix)) for prefix in prefixes)
    return int(source.sizes.sum()), int(target.sizes.sum())


def _write_dictionaries(
    processor: sentencepiece.SentencePieceProcessor, languages: tuple[str, str], target: Path
) -> None:
    from fairseq.data import Dictionary

    dictionary = Dictionary()
    for index in range(dictionary.nspecial, len(processor)):
        dictionary.add_symbol(processor.id_to_piece(index))
    for language in languages:
        dictionary.save(str(target / f"dict.{language}.txt"))


def _batches(path: Path) -> Iterator[list[str]]:
    lines = read_lines(path)
    while batch := list(islice(lines, BATCH)):
        yield batch
