"""Batches without padding, all of one shape.

Sentences are dealt into batches at random, but each batch gets as many long and short ones as any other: so all have
the same number of sentences, and nearly the same number of words on both sides. What little is missing to one shape is
filled with sentences of padding symbols, which no loss counts and no other sentence sees.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from fairseq.data import FairseqDataset, LanguagePairDataset
from numpy.typing import NDArray
from torch import Tensor

from ..variants import SettingError
from .spans import Spans

logger = logging.getLogger(__name__)
Indices = NDArray[np.int64]
MULTIPLE = 128  # rows are filled up to a multiple of it: whole tiles of matrix products
PARTS = 16  # of a batch, which are even: so they are for 2, 4, 8 or 16 processes


class Shape(NamedTuple):
    """What every batch of a corpus has room for, fillers included."""

    sentences: int
    fillers: int  # of these; each has a row on both sides
    source: int
    target: int
    longest_source: int
    longest_target: int


class Side(NamedTuple):
    """One side of a packed batch. Shape legend: N rows of all sentences."""

    words: Tensor  # N, int64
    places: Tensor  # N, int64: of a word in its sentence, from 0
    spans: Spans


@dataclass(frozen=True)  # which fairseq does not look into, as it does into what it takes to the GPU by itself, slowly
class PackedBatch:
    source: Side
    target: Side
    previous: Tensor  # the target moved on by one word, `</s>` first

    def to(self, device: torch.device) -> "PackedBatch":
        """There, in the course of what is queued on the device: nothing waits for it."""

        def moved(x: Any) -> Any:
            if isinstance(x, Tensor):
                return x.pin_memory().to(device, non_blocking=True)
            return type(x)(*map(moved, x)) if isinstance(x, tuple) else x

        if device.type == "cpu":
            return self
        return PackedBatch(moved(self.source), moved(self.target), moved(self.previous))


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
        """Even batches of no more than `max_tokens` words on either side, few of them. Raises SettingError."""
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
        sizes = self.pairs.src_sizes, self.pairs.tgt_sizes
        self.shape = shape_of(cut, *sizes, parts > min(map(len, self.batches)))
        words = sum(int(side[batch].sum()) for side in sizes for batch in cut)
        filled = words / (len(cut) * (self.shape.source + self.shape.target))
        logger.info(f"{len(cut)} packed batches, {filled:.1%} of their rows are words")

    def collater(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        assert self.shape is not None, "batches come first"
        return pack(samples, self.shape, self.pairs.src_dict.pad(), self.pairs.tgt_dict.eos())


def even_batches(indices: Indices, source: Any, target: Any, max_tokens: int) -> list[Indices]:
    """Deal `indices` into batches of nearly as many words each that hold no more than `max_tokens`, and into few.

    The parts of a batch (see `share`) are even too.
    """
    if not len(indices):
        raise SettingError(f"no sentence pair is within --max-tokens {max_tokens} and the positions of the model")
    sizes = np.stack([source[indices], target[indices]]).astype(np.int64)
    if sizes.max() > max_tokens:
        raise SettingError(f"--max-tokens {max_tokens}: the longest of {len(indices)} sentences has {sizes.max()}")
    number = -(-int(sizes.sum(axis=1).max()) // max_tokens)
    while True:
        order = dealt(sizes[:, None], number)[0]
        if max(int(sizes[:, order[batch::number]].sum(axis=1).max()) for batch in range(number)) <= max_tokens:
            break
        number = min(number + max(1, number // 500), len(indices))
    rows = len(indices) // number * number
    batches = order[:rows].reshape(-1, number).T
    batches = np.take_along_axis(batches, dealt(sizes[:, batches], PARTS), axis=1)
    # some have a sentence more, one of the shortest
    return [indices[np.append(batch, order[rows + place :][:1])] for place, batch in enumerate(batches)]


def dealt(sizes: Indices, hands: int) -> Indices:
    """How to order sentences so that places p, p + hands, p + 2 hands and so on, a hand, have as many words as others.

    The longest are dealt first, one to each hand, then the next, until too few are left for a round. Every other round
    goes by length, the hand with the fewest words getting the longest sentence; the rounds between by how much longer
    the source is than the target. Sentences that are alike keep their order. Sizes 2 x B x N, of source and target, of
    B sets of N sentences that are dealt apart. Returns B x N.
    """
    both, difference = sizes.sum(axis=0), sizes[0] - sizes[1]
    order = np.argsort(-both, axis=1, kind="stable")
    had = np.zeros((2, len(order), hands), dtype=np.int64)
    for turn in range(order.shape[1] // hands):
        round_ = order[:, turn * hands : (turn + 1) * hands]
        gains = np.stack([np.take_along_axis(of, round_, axis=1) for of in (both, difference)])
        least = had[turn % 2].argsort(axis=1, kind="stable")
        most = (-gains[turn % 2]).argsort(axis=1, kind="stable")
        given = np.empty_like(most)
        np.put_along_axis(given, least, most, axis=1)
        round_[:] = np.take_along_axis(round_, given, axis=1)
        had += np.take_along_axis(gains, given[None], axis=2)
    return order


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
    """fairseq's sample of pairs ({"id", "source", "target"}), with its "net_input" replaced by "packed"."""
    source, target = (
        side_of([np.asarray(sample[side]) for sample in samples], side, shape, padding) for side in ("source", "target")
    )
    previous = target.words.roll(1).masked_fill(target.places == 0, eos)
    return {
        "id": torch.tensor([sample["id"] for sample in samples]),
        "nsentences": len(samples),
        "ntokens": int(sum(len(sample["target"]) for sample in samples)),
        "packed": PackedBatch(source, target, previous),
    }


def side_of(sentences: Sequence[Any], side: str, shape: Shape, padding: int) -> Side:
    """The sentences of the "source" or the "target", and behind them the fillers."""
    room, longest = getattr(shape, side), getattr(shape, f"longest_{side}")
    lengths = np.zeros(shape.sentences, dtype=np.int64)
    lengths[: len(sentences)] = [len(sentence) for sentence in sentences]
    missing = room - lengths.sum()
    lengths[shape.sentences - shape.fillers :] = [
        (missing + filler) // shape.fillers for filler in range(shape.fillers)
    ]
    words = torch.from_numpy(np.concatenate([*sentences, np.full(missing, padding, dtype=np.int64)]))
    spans = Spans.of(torch.from_numpy(lengths), longest)
    return Side(words, torch.arange(room) - spans.bounds[spans.sentences.long()], spans)
