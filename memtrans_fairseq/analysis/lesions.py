"""What becomes of a trained model when some of its memory is gone, silent, or more than it was trained with.

    with lesioned(model, lesion, means):
        ...  # translate, or measure perplexity; afterwards the model is as it was

A token that is removed keeps its place, and no other row sees it: as if it had never been there, but for positions.
Nothing is touched where nothing is removed, so the model is then the intact one to the last bit.
"""

import math
import random
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from .probe import Call, Hide, Rewrite, probe

Kind = Literal["first", "random", "single", "frozen", "zeroed", "blind", "more"]
KINDS: tuple[Kind, ...] = ("first", "random", "single", "frozen", "zeroed", "blind", "more")
DRAWS = 3  # random choices of the same number of tokens
Means = dict[tuple[int, int], Tensor]  # by depth and number of memory rows: rows x 1 x D


@dataclass(frozen=True)
class Lesion:
    """One change. Tokens and layers count from 1."""

    kind: Kind
    name: str
    kept: tuple[int, ...] | None = None  # the tokens that are left; None: all
    layer: int | None = None  # zeroed: memory is, from what this layer takes in on
    blind_to: Literal["memory", "sequence"] | None = None  # what the decoder does not see
    tokens: int | None = None  # more: so many in all
    start: Literal["new", "copies"] | None = None  # more: how further tokens start


def lesions(tokens: int, layers: int, decoder_reads: str | None, kinds: tuple[Kind, ...] = KINDS) -> list[Lesion]:
    """All lesions of a model with so many memory tokens and layers. `decoder_reads`: None for a language model."""
    found = [*_kept(tokens), Lesion("frozen", "memory frozen to its mean")]
    found += [Lesion("zeroed", f"memory zero from layer {n} on", layer=n) for n in range(1, layers + 1)]
    if decoder_reads == "all":
        found += [Lesion("blind", "decoder blind to memory", blind_to="memory")]
        found += [Lesion("blind", "decoder blind to the sequence", blind_to="sequence")]
    found += [Lesion("more", f"{2 * tokens} tokens, {tokens} new", tokens=2 * tokens, start="new")]
    found += [Lesion("more", f"{2 * tokens} tokens, {tokens} copies", tokens=2 * tokens, start="copies")]
    return [lesion for lesion in found if lesion.kind in kinds]


def _kept(tokens: int) -> Iterator[Lesion]:
    every = range(1, tokens + 1)
    counts = sorted({tokens * quarter // 4 for quarter in range(4)})
    for count in counts:
        yield Lesion("first", f"first {count} of {tokens} tokens", tuple(every[:count]))
    for count in counts[1:]:
        for draw, kept in enumerate(_drawn(every, count), 1):
            yield Lesion("random", f"{count} of {tokens} tokens at random, draw {draw}", kept)
    for token in every:
        yield Lesion("single", f"without token {token}", tuple(t for t in every if t != token))


def _drawn(every: range, count: int) -> list[tuple[int, ...]]:
    """Choices of `count` tokens: none twice, and not the first; as many as there are, at most DRAWS."""
    rng, first = random.Random(count), tuple(every[:count])
    found: dict[tuple[int, ...], None] = {}
    most = min(DRAWS, math.comb(len(every), count) - 1)
    while len(found) < most:
        kept = tuple(sorted(rng.sample(every, count)))
        if kept != first:
            found[kept] = None
    return list(found)


@contextmanager
def lesioned(model: Any, lesion: Lesion, means: Means | None = None) -> Iterator[None]:
    """While entered, the model has the lesion. `means` are those of `memory_means`, for the frozen kind.

    Raises SettingError, when the model runs, if some row would see nothing any more.
    """
    if lesion.tokens is not None:
        with _more(model, lesion.tokens, lesion.start):
            yield
        return
    hide, rewrite = _hide(lesion, model), _rewrite(lesion, means)
    with probe(model, hide=hide, rewrite=rewrite):
        yield


def _hide(lesion: Lesion, model: Any) -> Hide | None:
    if lesion.blind_to:
        return lambda call: _blind(call, lesion.blind_to == "memory")
    if lesion.kept is None:
        return None
    kept = torch.tensor([token - 1 for token in lesion.kept], dtype=torch.long)

    def hidden(call: Call) -> Tensor:
        """Nobody sees a removed row, but other removed rows, which nobody sees either."""
        gone_rows, gone_columns = (
            axis.memory & ~torch.isin(axis.token, kept.to(axis.token.device)) for axis in (call.down, call.across)
        )
        return gone_columns & ~gone_rows.unsqueeze(-1)

    return hidden


def _blind(call: Call, to_memory: bool) -> Tensor:
    columns = call.across.memory if to_memory else ~call.across.memory
    return columns.expand(len(call.down.memory), -1) & (call.part == "cross")


def _rewrite(lesion: Lesion, means: Means | None) -> Rewrite | None:
    if lesion.kind == "frozen":
        assert means is not None
        return lambda depth, memory: means[depth, len(memory)].to(memory).expand_as(memory)
    if (layer := lesion.layer) is not None:
        return lambda depth, memory: torch.zeros_like(memory) if depth >= layer - 1 else memory
    return None


@contextmanager
def gathering_means(model: Any) -> Iterator[Means]:
    """While entered, the yielded means grow with what the model reads; they are those of all of it at the end.

    Of every memory row at every depth, over sentences (of a language model, over segments with as many memory rows).
    """
    sums: dict[tuple[int, int], Tensor] = defaultdict(lambda: torch.zeros(()))
    counts: dict[tuple[int, int], int] = defaultdict(int)
    means: Means = {}

    def seen(depth: int, memory: Tensor) -> Tensor:
        key = depth, len(memory)
        sums[key] = sums[key].to(memory.device) + memory.detach().double().sum(dim=1, keepdim=True)
        counts[key] += memory.size(1)
        return memory

    with torch.no_grad(), probe(model, rewrite=seen):
        yield means
    means |= {key: total / counts[key] for key, total in sums.items()}


# --- more tokens than trained


def with_more(weight: Tensor, tokens: int, start: str | None, in_stream: bool) -> Tensor:
    """`tokens` memory vectors, tokens x D, the first of which are `weight`'s.

    Further ones are `copies` of these in turn, or `new`, drawn as all were before training (see `MemoryTokens`): from
    N(0, 1 / D), of a language model (`in_stream`) from N(0, 1).
    """
    further = max(tokens - len(weight), 0)
    drawn = weight[torch.arange(further) % len(weight)]
    if start != "copies":
        own = torch.Generator().manual_seed(tokens)
        drawn = torch.randn(further, weight.size(1), generator=own) * (1 if in_stream else weight.size(1) ** -0.5)
    return torch.cat([weight[:tokens], drawn.to(weight)])


@contextmanager
def _more(model: Any, tokens: int, start: str | None) -> Iterator[None]:
    streams = getattr(model, "streams", False)
    memory = (model.decoder if streams else model.encoder).memory
    configs = {id(side.cfg): side.cfg for side in ([model.decoder] if streams else [model.encoder, model.decoder])}
    trained, count = memory.weight, memory.weight.size(0)
    memory.weight = torch.nn.Parameter(with_more(trained.detach(), tokens, start, in_stream=streams))
    try:
        for config in configs.values():
            config.memory_tokens = tokens
        yield
    finally:
        memory.weight = trained
        for config in configs.values():
            config.memory_tokens = count
