"""Batches without padding, all of one shape.

Sentences are drawn at random into batches, not sorted by length, and the batches are even: so they all have nearly the
same number of sentences and of words on both sides. What little is missing to one shape is filled with sentences of
padding symbols, which no loss counts and no other sentence sees.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from fairseq.data import FairseqDataset, LanguagePairDataset
from numpy.typing import NDArray

from ..variants import SettingError

Indices = NDArray[np.int64]
MULTIPLE = 128  # rows are filled up to a multiple of it: whole tiles of matrix products


class Shape(NamedTuple):
    """What every batch of a corpus has room for, fillers included."""

    sentences: int
    fillers: int  # of these; each has a row on both sides
    source: int
    target: int
    longest_source: int
    longest_target: int


class PackedPairs(FairseqDataset):
    """The sentence pairs of a fairseq dataset, in packed batches."""

    def __init__(self, pairs: LanguagePairDataset) -> None:
        super().__init__()
        self.pairs = pairs
        self.batches: list[Indices] = []
        self.shape: Shape | None = None

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.pairs[index]

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def supports_fetch_outside_dataloader(self) -> bool:
        """No: fairseq would collate a whole batch at an epoch's beginning, and there may be room for a part alone."""
        return False

    @property
    def sizes(self) -> Any:
        return self.pairs.sizes

    def size(self, index: int) -> tuple[int, int]:
        return self.pairs.size(index)

    def num_tokens(self, index: int) -> int:
        return self.pairs.num_tokens(index)

    def filter_indices_by_size(self, indices: Indices, max_sizes: Any) -> tuple[Indices, list[int]]:
        return self.pairs.filter_indices_by_size(indices, max_sizes)

    def ordered_indices(self) -> Indices:
        """In random order, drawn with numpy's own seed, which fairseq sets."""
        return np.random.permutation(len(self)).astype(np.int64)

    def batch_by_size(
        self,
        indices: Indices,
        max_tokens: int | None = None,
        max_sentences: int | None = None,
        required_batch_size_multiple: int = 1,
    ) -> list[Indices]:
        """As few even batches as have no more than `max_tokens` words on either side. Raises SettingError."""
        if not max_tokens:
            raise SettingError("packed batches are made by words: set --max-tokens")
        if max_sentences:
            raise SettingError("packed batches are made by words alone: leave out --batch-size")
        self.batches = even_batches(indices, self.pairs.src_sizes, self.pairs.tgt_sizes, max_tokens)
        self.share(1)
        return self.batches

    def share(self, parts: int) -> None:
        """From now on every batch is taken in so many parts: row p, p + parts, p + 2 parts and so on is one."""
        cut = [batch[part::parts] for batch in self.batches for part in range(min(parts, len(batch)))]
        self.shape = shape_of(cut, self.pairs.src_sizes, self.pairs.tgt_sizes, parts > min(map(len, self.batches)))

    def collater(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        assert self.shape is not None, "batches come first"
        return pack(samples, self.shape, self.pairs.src_dict.pad(), self.pairs.tgt_dict.eos())


def even_batches(indices: Indices, source: Any, target: Any, max_tokens: int) -> list[Indices]:
    """Cut `indices` into the fewest batches of nearly as many words each that hold no more than `max_tokens`."""
    if not len(indices):
        raise SettingError(f"no sentence pair is within --max-tokens {max_tokens} and the positions of the model")
    sizes = np.stack([source[indices], target[indices]]).astype(np.int64)
    if sizes.max() > max_tokens:
        raise SettingError(f"--max-tokens {max_tokens}: the longest of {len(indices)} sentences has {sizes.max()}")
    heavier = sizes[sizes.sum(axis=1).argmax()]
    middles = heavier.cumsum() - heavier / 2
    number = -(-int(heavier.sum()) // max_tokens)
    while True:
        starts = np.unique(np.searchsorted(middles, np.arange(number) * (heavier.sum() / number)))
        if np.add.reduceat(sizes, starts, axis=1).max() <= max_tokens:
            return np.split(indices, starts[1:])
        number += max(1, number // 500)


def shape_of(batches: Sequence[Indices], source: Any, target: Any, some_empty: bool = False) -> Shape:
    """The one shape for all `batches`; of which some may also be a single short sentence."""
    sums = np.array([[sizes[batch].sum() for sizes in (source, target)] for batch in batches])
    # at least 2: fillers, each a row at first, must be able to take up what more of them cost
    longest = [max(2, *(int(sizes[batch].max()) for batch in batches)) for sizes in (source, target)]
    least = np.ones(2, dtype=np.int64) if some_empty else sums.min(axis=0)
    fillers = 1
    while True:  # fillers are no longer than sentences, so that there are enough of them for the emptiest batch
        room = [-(-int(most + fillers) // MULTIPLE) * MULTIPLE for most in sums.max(axis=0)]
        needed = max(-(-int(size - few) // most) for size, few, most in zip(room, least, longest, strict=True))
        if needed <= fillers:
            break
        fillers = needed
    return Shape(max(map(len, batches)) + fillers, fillers, *room, *longest)


def pack(samples: Sequence[dict[str, Any]], shape: Shape, padding: int, eos: int) -> dict[str, Any]:
    """fairseq's sample of pairs ({"id", "source", "target"}), with its "net_input" replaced by "packed".

    Flat tensors of int64: `source`, `previous` (the target moved on by one word, `</s>` first) and `target`; for each
    of these rows its place in its sentence, and of the source its sentence; the `lengths` of all sentences.
    """
    sides = {}
    for side, room in (("source", shape.source), ("target", shape.target)):
        words = [np.asarray(sample[side]) for sample in samples]
        lengths = np.zeros(shape.sentences, dtype=np.int64)
        lengths[: len(words)] = [len(sentence) for sentence in words]
        missing = room - lengths.sum()
        lengths[shape.sentences - shape.fillers :] = [
            (missing + filler) // shape.fillers for filler in range(shape.fillers)
        ]
        rows = np.concatenate([*words, np.full(missing, padding, dtype=np.int64)])
        starts = np.repeat(lengths.cumsum() - lengths, lengths)
        sides[side] = rows, lengths, np.arange(room) - starts
    source, source_lengths, source_positions = sides["source"]
    target, target_lengths, target_positions = sides["target"]
    previous = np.roll(target, 1)
    previous[target_positions == 0] = eos
    packed = {
        "source": source,
        "source_lengths": source_lengths,
        "source_positions": source_positions,
        "source_sentences": np.repeat(np.arange(shape.sentences), source_lengths),
        "previous": previous,
        "target": target,
        "target_lengths": target_lengths,
        "target_positions": target_positions,
    }
    return {
        "id": torch.tensor([sample["id"] for sample in samples]),
        "nsentences": len(samples),
        "ntokens": int(sum(len(sample["target"]) for sample in samples)),
        "packed": {name: torch.from_numpy(value) for name, value in packed.items()}
        | {"longest_source": shape.longest_source, "longest_target": shape.longest_target},
    }
