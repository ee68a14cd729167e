"""Perplexity of a language model on a stream of tokens, in three ways. Every token is scored exactly once.

- `segment`: the stream in parallel rows, segment after segment; the model keeps its own state (cache, memory).
- `xl_eval`: the same with short segments and a long cache, as Transformer-XL (Dai et al. 2019) is evaluated.
- `sliding`: a window that moves by a stride; only what the last window did not hold counts. No state is carried.

Numbers in shapes: R rows or windows at once, T tokens of a segment or window.
"""

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from memtrans_fairseq.compat import quiet
from memtrans_fairseq.streaming import StreamDataset, token_losses

import numpy as np
import torch
from torch import Tensor

from memtrans.errors import UserError

WINDOWS = 32  # sliding windows at once; changes speed, not numbers
Batch = tuple[Tensor, Tensor]  # inputs and targets, R x T


@dataclass(frozen=True)
class Counted:
    """The negative log likelihood of a stream in nats, and how many tokens it is the sum of."""

    nll: float
    tokens: int

    def perplexity(self, words: int) -> float:
        """Per corpus word, however many tokens a word has."""
        return math.exp(self.nll / words)


def measure(model: Any, stream: np.ndarray, way: str, protocol: Mapping[str, Any], eos: int, pad: int) -> Counted:
    """Score all tokens of a stream (1-d ints) in one of the three ways, with the lengths that the protocol gives it.

    `protocol` is the run's: `protocol[way]` holds the lengths. The model must be in eval mode; it is left as it was.
    """
    lengths = protocol[way]
    if way == "sliding":
        batches: Iterator[Batch] = sliding_windows(stream, lengths["window"], lengths["stride"], eos, pad)
        return _count(model, batches, pad, carries=False)
    if way == "xl_eval":
        model = copy.deepcopy(model)
        model.set_context(mem_len=lengths["memory"], clamp_len=lengths["clamp"], same_length=True)
    dataset = StreamDataset(stream, protocol["rows"], lengths["target"], eos, pad)
    samples = (dataset[i] for i in range(len(dataset)))
    return _count(model, ((sample["net_input"]["src_tokens"], sample["target"]) for sample in samples), pad)


def context(way: str, protocol: Mapping[str, Any]) -> str:
    """What a prediction may see, in words: the same for all rows of a table, whatever each model makes of it."""
    lengths = protocol[way]
    if way == "sliding":
        return f"sliding: window {lengths['window']}, stride {lengths['stride']}"
    memory = "memory as trained"
    if way == "xl_eval":
        memory = f"memory {lengths['memory']}, clamp {lengths['clamp']}, same length"
    rows = f"{protocol['rows']} row{'s' if protocol['rows'] > 1 else ''}"
    return f"{way}: target {lengths['target']}, {memory}, {rows}"


def sliding_windows(stream: np.ndarray, window: int, stride: int, eos: int, pad: int) -> Iterator[Batch]:
    """Batches of windows over the stream; targets that an earlier window has scored are `pad`.

    The first window counts whole, each next one its last `stride` tokens, so that a token is predicted from at least
    window - stride tokens before it, where the stream has them.
    """
    targets = torch.from_numpy(np.asarray(stream, dtype=np.int64))
    inputs = torch.cat([targets.new_tensor([eos]), targets[:-1]])
    ends = [*range(min(window, len(targets)), len(targets), stride), len(targets)]
    windows, scored = [], 0
    for end in ends:
        start = max(end - window, 0)
        target = targets[start:end].clone()
        target[: scored - start] = pad
        windows.append((inputs[start:end], target))
        scored = end
        if len(windows) == WINDOWS or end == ends[-1]:
            yield torch.stack([window for window, _ in windows]), torch.stack([target for _, target in windows])
            windows = []


@torch.no_grad()
def _count(model: Any, batches: Iterator[Batch], pad: int, carries: bool = True) -> Counted:
    """Sum up, in double precision. With `carries`, what the model keeps of a batch goes on to the next."""
    device = next(model.parameters()).device
    total = torch.zeros((), dtype=torch.float64, device=device)
    tokens, state = 0, None
    with quiet():
        for inputs, targets in batches:
            losses, kept = token_losses(model, inputs.to(device), targets.to(device), state)
            total += losses.double().sum()
            tokens += int((targets != pad).sum())
            state = kept if carries else None
    nll = float(total)
    if not math.isfinite(nll):
        raise UserError(f"the loss is {nll}: training has diverged; lower train.lr, or clip more (train.clip_norm)")
    return Counted(nll, tokens)
