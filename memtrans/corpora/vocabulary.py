"""One sentencepiece BPE model over all texts, with the special symbols at the ids where fairseq has them.

So sentencepiece's ids are fairseq's ids, and the dictionary has exactly `size` entries (a multiple of 8 is fastest).
"""

import io
import math
from collections.abc import Callable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

import sentencepiece

from memtrans.corpora.text import read_lines
from memtrans.errors import UserError
from memtrans.files import write_bytes

Reader = Callable[[Path], Iterator[str]]

SPECIAL: dict[str, Any] = {
    "bos_id": 0,
    "pad_id": 1,
    "eos_id": 2,
    "unk_id": 3,
}  # fairseq's Dictionary; its names are the defaults here


def train_vocabulary(
    texts: list[Path], lines: int, size: int, sample: int, model: Path, read: Reader = read_lines, **settings: Any
) -> None:
    """Train the model on `texts` (each of `lines` lines) and write `model` and, beside it, the readable .vocab file.

    `read` yields the lines of a text as the model is to see them; `settings` are further ones of sentencepiece.

    At most `sample` sentences are used, evenly spread over all files: this bounds the memory. The result depends on the
    text and these numbers only: no randomness, no paths. Raises UserError if the text does not suffice for `size`.
    """
    step = max(1, math.ceil(lines * len(texts) / sample))
    content = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=chain.from_iterable(islice(read(text), 0, None, step) for text in texts),
            model_writer=content,
            model_type="bpe",
            vocab_size=size,
            character_coverage=1.0,
            num_threads=1,
            minloglevel=2,
            **SPECIAL,
            **settings,
        )
    except (RuntimeError, OSError) as error:
        reason = str(error).rsplit("] ", 1)[-1].strip() or "there is no training text"
        raise UserError(f"no vocabulary of {size} pieces: {reason} (corpus.vocabulary.size sets it)") from error
    processor = sentencepiece.SentencePieceProcessor(model_proto=content.getvalue())
    vocabulary = (f"{processor.id_to_piece(i)}\t{processor.get_score(i):g}\n" for i in range(len(processor)))
    write_bytes(model.with_suffix(".vocab"), "".join(vocabulary).encode())
    write_bytes(model, content.getvalue())  # last: its presence means that the step is done
