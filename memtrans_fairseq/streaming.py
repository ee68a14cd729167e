"""Reading a text as one stream: B contiguous rows, each in segments of T tokens, every token predicted exactly once.

Row b of a stream of N tokens holds those from b * ceil(N / B) on; what a segment predicts begins where that of the
segment before ended, so a model may carry state from one to the next. The token before the first one is `</s>`.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from fairseq.data import FairseqDataset
from fairseq.data.indexed_dataset import MMapIndexedDataset, data_file_path, index_file_path
from torch import Tensor

from .variants import SettingError


def read_stream(prefix: str) -> np.ndarray:
    """All tokens of a binarised split, such as `bin/test`, memory-mapped. Raises SettingError if it is not there."""
    if not Path(index_file_path(prefix)).exists():
        raise SettingError(
            f"no binarised text {index_file_path(prefix)}: is that the folder, and the name of the split?"
        )
    index = MMapIndexedDataset.Index(index_file_path(prefix))
    return np.memmap(data_file_path(prefix), mode="r", dtype=index.dtype)


def part_of(rows: int, number: int, parts: int) -> slice:
    """Which of `rows` rows are one of `parts` parts."""
    return slice(rows * number // parts, rows * (number + 1) // parts)


class StreamDataset(FairseqDataset):
    """A stream in `rows` rows and segments of `length` tokens. An item is a whole batch, one segment of every row.

    With several shards, `rows` are those of each: all shards together read what one with all their rows would read.
    Where the stream does not fill the last rows and segments, the target is `pad`.
    """

    def __init__(
        self, tokens: Any, rows: int, length: int, eos: int, pad: int, shard: int = 0, shards: int = 1
    ) -> None:
        self.tokens, self.rows, self.length, self.eos, self.pad = tokens, rows, length, eos, pad
        self.shard, self.shards = shard, shards
        self.row_length = -(-len(tokens) // (rows * shards))
        self.mine = (0, 1)  # which part of the rows is read, of how many

    def part(self, number: int, parts: int) -> "StreamDataset":
        """One of several parts of the rows, as even as can be: what one of the processes reads that share a batch."""
        dataset = self.cut(self.rows, self.shard, self.shards)
        dataset.mine = (number, parts)
        return dataset

    def cut(self, rows: int, shard: int = 0, shards: int = 1) -> "StreamDataset":
        """The same stream in another number of rows."""
        return StreamDataset(self.tokens, rows, self.length, self.eos, self.pad, shard, shards)

    def __len__(self) -> int:
        return -(-self.row_length // self.length)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(f"segment {index} of {len(self)}")
        start = index * self.length
        within = np.arange(start, min(start + self.length, self.row_length))
        mine = np.arange(self.rows)[part_of(self.rows, *self.mine)]
        first = (self.shard * self.rows + mine) * self.row_length
        place = first[:, np.newaxis] + within  # B x T
        real = place < len(self.tokens)
        target = np.where(real, self.tokens[np.where(real, place, 0)], self.pad).astype(np.int64)
        before = np.where(real, self.tokens[np.where(real, place - 1, 0)], self.pad).astype(np.int64)
        before[place == 0] = self.eos
        return {
            "id": torch.tensor([index]),
            # the same as plain numbers, and of which rows and segments
            "place": (index, self.rows, self.shard, self.shards, self.length),
            "part": self.mine,
            "net_input": {
                "src_tokens": torch.from_numpy(before),
                "src_lengths": torch.from_numpy(real.sum(axis=1)),
            },
            "target": torch.from_numpy(target),
            "ntokens": int(real.sum()),
            "nsentences": len(mine),
        }

    def collater(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        """fairseq's name for what makes a batch of items. An item is one already."""
        (sample,) = samples
        return sample


def token_losses(model: Any, src_tokens: Tensor, target: Tensor, state: Any = None) -> tuple[Tensor, Any]:
    """Negative log-likelihoods in nats, B x T float32 and 0 where target is `<pad>`, and the state for what follows.

    src_tokens, target: B x T. `state` is what the segment before returned. A language model of fairseq's own has none.
    """
    if getattr(model, "streams", False):
        places = model.places(target)
        features, extra = model(src_tokens, state=state)
        return model.nll(features, target, places), extra["state"]
    features, extra = model(src_tokens)
    words = target.flatten()
    if (adaptive := model.decoder.adaptive_softmax) is None:
        logs = model.get_normalized_probs((features, extra), log_probs=True).flatten(0, 1)
        losses = F.nll_loss(logs.float(), words, reduction="none")
    else:
        (head, *others), (in_head, *in_part) = adaptive(features, words)
        losses = F.cross_entropy(head.float(), in_head, reduction="none")
        bounds = zip(adaptive.cutoff, adaptive.cutoff[1:], strict=False)
        for (start, end), logits, within in zip(bounds, others, in_part, strict=True):
            if logits is not None:
                chosen = ((words >= start) & (words < end)).nonzero().squeeze(-1)
                losses = losses.index_add(0, chosen, F.cross_entropy(logits.float(), within, reduction="none"))
    return losses.masked_fill(words == model.decoder.dictionary.pad(), 0).view_as(target), None
