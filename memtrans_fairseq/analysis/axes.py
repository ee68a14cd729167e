"""What the rows and columns of an attention map are, and where each attention of a layer stands in the layer's map.

A map has a row for every row of X that asks, and a column for every row that is asked: in an encoder [memory;
sequence] both ways; in a language model the rows of the segment in the order of the stream, and columns for the cache
before them. A layer may fill its map in one attention (MemTransformer) or in two (one for memory's rows, one for the
sequence's), and a bottleneck's attentions are cut into chunks, which lie in the batch.

Shape legend: N rows or columns of a map, B batch, G chunks (else 1), Q queries, K keys, M memory tokens.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..modules.block import EncoderRows
from ..modules.causal import ChunkRows, DenseRows


class Axis(NamedTuple):
    """Rows or columns of a map: N each, `real` B x N."""

    memory: Tensor  # bool: a memory row, else one of the sequence
    earlier: Tensor  # bool: from an earlier segment: a cached row, or memory that was carried here
    token: Tensor  # which of the M memory tokens; -1: none
    real: Tensor  # bool: not padding

    @classmethod
    def of(cls, token: Tensor, real: Tensor, earlier: Tensor | None = None) -> "Axis":
        return cls(token >= 0, torch.zeros_like(token, dtype=torch.bool) if earlier is None else earlier, token, real)


class Places(NamedTuple):
    """Which row of the map each query is, G x Q, and which column each key, G x K (-1: none, a row nothing sees)."""

    rows: Tensor
    columns: Tensor


def memory_first(memory_tokens: int, length: int, device: Any) -> Tensor:
    """`Axis.token` of [memory; sequence]."""
    token = torch.arange(length, device=device)
    return token.masked_fill(token >= memory_tokens, -1)


def stream_tokens(rows: DenseRows | ChunkRows, memory_tokens: int) -> Tensor:
    """`Axis.token` of a segment's rows in a language model."""
    memory = rows.geometry.memory if isinstance(rows, DenseRows) else _memory_rows(rows).flatten()
    length = rows.geometry.hidden.size(0) if isinstance(rows, DenseRows) else rows.layout.rows
    token = torch.full((length,), -1, device=memory.device)
    token[memory] = torch.arange(len(memory), device=memory.device) % max(memory_tokens, 1)
    return token


def places(rows: Any, part: str, length: int, device: Any) -> Places:
    """Where the attention `part` (all, write, attend or read) of a layer over X of `length` rows stands in its map."""
    if isinstance(rows, ChunkRows):
        return _chunk_places(rows, part)
    everything = torch.arange(length, device=device)
    if isinstance(rows, DenseRows):
        memory, sequence = rows.geometry.memory, rows.geometry.sequence
        keys = rows.geometry.hidden.size(1) - rows.empty
        columns = torch.arange(-rows.empty, keys, device=device).clamp(min=-1)
    else:
        assert isinstance(rows, EncoderRows)
        memory, sequence = everything[: rows.memory_tokens], everything[rows.memory_tokens :]
        columns = memory if part == "read" else everything
    queries = {"all": everything, "write": memory, "attend": sequence, "read": sequence}[part]
    return Places(queries.unsqueeze(0), columns.unsqueeze(0))


def _chunk_places(rows: ChunkRows, part: str) -> Places:
    layout, groups = rows.layout, _memory_rows(rows)
    unit = layout.memory_tokens + layout.every
    starts = unit * torch.arange(layout.groups, device=groups.device).unsqueeze(1)
    if part == "write":
        before = (starts - unit + torch.arange(unit, device=groups.device)).clamp(min=-1)
        return Places(groups, torch.cat([before, groups], dim=1))
    tokens = starts[: layout.chunks] + torch.arange(layout.memory_tokens, unit, device=groups.device)
    return Places(tokens, torch.cat([groups[: layout.chunks], tokens], dim=1))


def _memory_rows(rows: ChunkRows) -> Tensor:
    """The rows of each group: G x M."""
    layout, device = rows.layout, rows.reading.hidden.device
    starts = (layout.memory_tokens + layout.every) * torch.arange(layout.groups, device=device)
    return starts.unsqueeze(1) + torch.arange(layout.memory_tokens, device=device)
