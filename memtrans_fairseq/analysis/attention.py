"""Attention probabilities of every layer and head, as the model at hand has them: its own, not a copy of its formulas.

    with captured(model) as maps:
        model(**sample["net_input"])
    for attention in maps: ...

Encoders have a map [memory; sequence] x [memory; sequence] for each layer, also where memory and sequence have
sub-layers of their own; in a bottleneck, columns of memory are then what the sequence reads: memory as just written.
The cross-attention of a decoder has rows for the target and columns [memory; sequence], or one of the two. A language
model has rows in the order of the stream, and the cache, if there is one, in the columns before them.

Shape legend: B batch, H heads, R rows, C columns.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..variants import SettingError
from .axes import Axis
from .probe import Call, probe


class AttentionMap(NamedTuple):
    """One layer's attention for a batch: `part` is encoder, cross or decoder (a language model's)."""

    part: str
    layer: int
    weights: Tensor  # B x H x R x C, rows sum to 1; 0 where nothing is visible
    visible: Tensor  # B x R x C: whether the row could see the column at all
    down: Axis  # the rows
    across: Axis  # the columns


class Side(NamedTuple):
    """The rows or the columns of one sentence's map: an `Axis` as arrays, without padding."""

    memory: np.ndarray
    earlier: np.ndarray
    token: np.ndarray


class Map(NamedTuple):
    """One layer's attention for one sentence or segment, without padding; NumPy, float64."""

    part: str
    layer: int
    weights: np.ndarray  # H x R x C
    visible: np.ndarray  # R x C
    down: Side
    across: Side


@contextmanager
def captured(model: Any) -> Iterator[list[AttentionMap]]:
    """While entered, the yielded list gets every attention of the model, complete when the model has run.

    A model that runs several times adds its maps again; the list may be emptied between two runs. Raises SettingError
    for a model that cannot be watched.
    """
    maps: list[AttentionMap] = []
    filled = torch.ones(0)  # which rows of the last map have asked: R

    def seen(call: Call, weights: Tensor, visible: Tensor) -> None:
        nonlocal filled
        if filled.all():
            maps.append(_empty(call, weights, len(visible) // len(call.places.rows)))
            filled = torch.zeros_like(call.down.memory)
        _fill(maps[-1], filled, call, weights, visible)

    with torch.no_grad(), probe(model, seen=seen):
        yield maps


def _empty(call: Call, weights: Tensor, batch: int) -> AttentionMap:
    rows, columns = len(call.down.memory), len(call.across.memory)
    return AttentionMap(
        call.part,
        call.layer,
        weights.new_zeros(batch, weights.size(1), rows, columns),
        torch.zeros(batch, rows, columns, dtype=torch.bool, device=weights.device),
        call.down,
        call.across,
    )


def _fill(into: AttentionMap, filled: Tensor, call: Call, weights: Tensor, visible: Tensor) -> None:
    """Put the weights of an attention, B*G x H x Q x K, where they belong."""
    rows, columns = call.places
    weights, visible = weights.unflatten(0, (-1, len(rows))), visible.unflatten(0, (-1, len(rows)))
    for chunk, (down, across) in enumerate(zip(rows, columns, strict=True)):
        if filled[down].any():
            raise SettingError(f"{call.part} layer {call.layer}: a row asks twice, which one map cannot show")
        filled[down] = True
        kept = (across >= 0).nonzero().squeeze(-1)
        where = down.unsqueeze(-1), across[kept]
        into.weights[:, :, where[0], where[1]] = weights[:, chunk][..., kept]
        into.visible[:, where[0], where[1]] = visible[:, chunk][..., kept]


def by_sentence(attention: AttentionMap) -> Iterator[Map]:
    """The maps of a batch's sentences, or of a batch's rows of a text, each without its padding."""
    weights, visible = attention.weights.double().cpu().numpy(), attention.visible.cpu().numpy()
    for b in range(len(weights)):
        rows, columns = (axis.real[b].cpu().numpy() for axis in (attention.down, attention.across))
        yield Map(
            attention.part,
            attention.layer,
            weights[b][:, rows][..., columns],
            visible[b][rows][:, columns],
            _kept(attention.down, rows),
            _kept(attention.across, columns),
        )


def _kept(axis: Axis, rows: np.ndarray) -> Side:
    memory, earlier, token = (field.cpu().numpy()[rows] for field in (axis.memory, axis.earlier, axis.token))
    return Side(memory, earlier, token)


def standing_in(attention: Map, tokens: int) -> Map | None:
    """A map of a model without memory, with the first tokens taken for memory; None if too few others are left.

    In a cross-attention these are columns alone. The control for statistics of memory: what first places get anyway.
    """

    def taken(side: Side) -> Side:
        token = np.full(len(side.token), -1)
        places = np.flatnonzero(~side.earlier)[:tokens]
        token[places] = np.arange(len(places))
        return side._replace(memory=token >= 0, token=token)

    down = attention.down if attention.part == "cross" else taken(attention.down)
    across = taken(attention.across)
    if (~across.memory & ~across.earlier).sum() < 2:
        return None
    return attention._replace(down=down, across=across)
