"""Where memory stands among the tokens of a causal model, and which rows see which.

A segment of T tokens is cut into chunks of `every` tokens (one chunk, if that is not given). A group of M memory rows
stands before each chunk, hence after the tokens of the chunks before it; carried memory has one more group at the end.

    front         m m t t t t t t         every=None, closing=False   a learned prefix
    interspersed  m m t t t m m t t t     every=3                     each group summarises what came before it
    recurrent     m m t t t t t t m m     closing=True                the last group is carried to the next segment

No row sees a later one, except that the rows of one group see each other both ways. Rows down the page see columns:

    front       m m t t t     interspersed  m m t t m m t t     recurrent   m m t t t m m
    m           x x           m             x x                 m           x x
    m           x x           m             x x                 m           x x
    t           x x x         t             x x x               t           x x x
    t           x x x x       t             x x x x             t           x x x x
    t           x x x x x     m             x x x x x x         t           x x x x x
                              m             x x x x x x         m           x x x x x x x
                              t             x x x x x x x       m           x x x x x x x
                              t             x x x x x x x x

A cache of earlier rows (Transformer-XL) stands before all of these, and each row of it is one farther away. Tokens see
it; so does interspersed memory, which summarises what came before. Memory in front and carried memory do not see it.

Shape legend: L rows, T tokens, M memory rows of a group, G groups, B batch, C channels.
"""

import functools
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..variants import SettingError
from .aligned import filling
from .relative import CausalBlock, RelativePositions, View


class CausalLayer(nn.Module):
    """The ordinary layer of a causal model: X' = FF(Att(X, X))."""

    def __init__(self, cfg: Any) -> None:
        super().__init__()
        self.block = CausalBlock(cfg)

    def forward(self, x: Tensor, rows: "DenseRows") -> Tensor:
        return rows.process(self.block, x)


class CausalParts:
    """What a causal model's layers are built from: see the contract in `variants`."""

    def __init__(self, cfg: Any) -> None:
        self.cfg = cfg

    def layer(self) -> nn.Module:
        return CausalLayer(self.cfg)

    def block(self) -> nn.Module:
        return CausalBlock(self.cfg)


class Layout(NamedTuple):
    """Which rows a segment has: see the drawings above."""

    tokens: int  # T
    memory_tokens: int  # M
    every: int  # tokens of a chunk
    closing: bool  # whether a group stands at the end
    whole_chunks: bool  # whether the last chunk is filled up with rows that nothing real sees

    @property
    def chunks(self) -> int:
        return -(-self.tokens // self.every)

    @property
    def filling(self) -> int:
        """Rows that the last chunk lacks."""
        return self.chunks * self.every - self.tokens

    @property
    def groups(self) -> int:
        return self.chunks + self.closing

    @property
    def rows(self) -> int:
        """L."""
        return self.groups * self.memory_tokens + self.tokens + self.filling * self.whole_chunks

    def assemble(self, memory: Tensor, tokens: Tensor) -> Tensor:
        """memory B x M x C, tokens B x T x C. Returns X, B x L x C."""
        chunks = F.pad(tokens, (0, 0, 0, self.filling)).unflatten(1, (self.chunks, self.every))
        groups = memory.unsqueeze(1).expand(-1, self.chunks, -1, -1)
        x = torch.cat([groups, chunks], dim=2).flatten(1, 2)
        if not self.whole_chunks:
            x = x[:, : x.size(1) - self.filling]
        return torch.cat([x, memory], dim=1) if self.closing else x

    def tokens_of(self, x: Tensor) -> Tensor:
        """The rows of the tokens: B x T x C."""
        memory = self.memory_tokens
        if self.chunks == 1:
            return x[:, memory : memory + self.tokens]
        units = x[:, : x.size(1) - memory * self.closing]
        if not self.whole_chunks:
            units = F.pad(units, (0, 0, 0, self.filling))
        return units.unflatten(1, (self.chunks, -1))[:, :, memory:].flatten(1, 2)[:, : self.tokens]

    def group_of_rows(self) -> Tensor:
        """The number of the group that each row belongs to, -1 for a token: L."""
        unit = torch.tensor([True] * self.memory_tokens + [False] * self.every)
        rows = torch.where(unit, torch.arange(self.chunks).unsqueeze(1), -1).flatten()
        if not self.whole_chunks:
            rows = rows[: len(rows) - self.filling]
        return torch.cat([rows, rows.new_full((self.memory_tokens * self.closing,), self.chunks)])


class Geometry(NamedTuple):
    """What of `DenseRows` depends on shapes alone. Before the cache stand E empty rows, which nothing sees."""

    hidden: Tensor  # L x (E + K + L)
    columns: Tensor  # L x (E + K + L): the distance between two rows, counted down from the largest
    memory: Tensor  # indices of the memory rows
    sequence: Tensor  # indices of the tokens
    order: Tensor  # puts [memory; sequence] in the order of the stream

    @classmethod
    @functools.lru_cache(maxsize=32)  # a model meets few shapes, and making this waits for the GPU
    def of(
        cls, layout: Layout, empty: int, cached: int, memory_sees_cache: bool, reach: int | None, device: torch.device
    ) -> "Geometry":
        with torch.inference_mode(False):  # what is kept must serve training too
            group = layout.group_of_rows()
            length, is_memory, before = len(group), group >= 0, empty + cached
            distance = torch.arange(length).unsqueeze(1) - torch.arange(-before, length)
            hidden = distance < 0
            hidden[:, before:] &= ~((group.unsqueeze(1) == group) & is_memory)
            hidden[:, :empty] = True
            if not memory_sees_cache:
                hidden[is_memory, :before] = True
            if reach is not None:  # a limit on the text, not on memory
                far = distance >= reach
                far[:, before:] &= ~is_memory
                hidden |= far
            memory, sequence = is_memory.nonzero().squeeze(-1), (~is_memory).nonzero().squeeze(-1)
            order = torch.cat([memory, sequence]).argsort()
            columns = length - 1 + before - distance
            return cls(*(part.to(device) for part in (hidden, columns, memory, sequence, order)))


class DenseRows(NamedTuple):
    """All rows see all earlier ones, in this segment and in the cache. X is B x L x C."""

    cache: Tensor | None  # B x K x C, the rows before this segment, as the layer at hand took them
    empty: int  # E, rows before all others that bring the number of keys to one that suits a GPU
    geometry: Geometry
    view: View  # of all rows

    @classmethod
    def build(
        cls,
        layout: Layout,
        positions: RelativePositions,
        like: Tensor,
        cached: int,
        memory_sees_cache: bool,
        reach: int | None,
    ) -> "DenseRows":
        """Rows of a layout after `cached` earlier ones. `reach`: distance that no row sees any more; None: no limit."""
        length = layout.rows
        empty = filling(cached + length, like)
        geometry = Geometry.of(layout, empty, cached, memory_sees_cache, reach, like.device)
        view = positions.view(geometry.hidden, length - 1 + cached + empty, 1 - length, like)
        return cls(None, empty, geometry, view)

    def after(self, cache: Tensor) -> "DenseRows":
        """The same for a layer that took `cache`, B x K x C, in the segments before."""
        return self._replace(cache=cache)

    def _keys(self, x: Tensor) -> Tensor:
        keys = x if self.cache is None else torch.cat([self.cache, x], dim=1)
        return F.pad(keys, (0, 0, self.empty, 0)) if self.empty else keys

    def process(self, block: nn.Module, x: Tensor) -> Tensor:
        return block(x, self._keys(x), self.view)

    def write(self, block: nn.Module, x: Tensor) -> Tensor:
        return self._update(block, x, self.geometry.memory)

    def attend(self, block: nn.Module, x: Tensor) -> Tensor:
        return self._update(block, x, self.geometry.sequence)

    def _update(self, block: nn.Module, x: Tensor, rows: Tensor) -> Tensor:
        view = self.view._replace(hidden=self.geometry.hidden[rows], columns=self.geometry.columns[rows])
        return block(x[:, rows], self._keys(x), view)

    def read(self, block: nn.Module, memory: Tensor, x: Tensor) -> Tensor:
        raise SettingError("a variant that reads memory alone is a bottleneck: register it with bottleneck=True")

    def join(self, memory: Tensor, sequence: Tensor) -> Tensor:
        return torch.cat([memory, sequence], dim=1)[:, self.geometry.order]


class ChunkRows(NamedTuple):
    """Rows for a bottleneck: a token sees the group before its chunk, and its own chunk no farther than a window.

    A group sees the group and the chunk before it, and itself. What lies farther back comes through the groups alone,
    so chunks are a dimension of the batch, and the cost is linear in the number of tokens. X is B x L x C.

        m m t t m m t t      window 1
        x x
        x x
        x x x                a token sees memory and itself
        x x   x
        x x x x x x          a group sees the unit before it, and itself
        x x x x x x
                x x x        not the first group any more
                x x   x
    """

    layout: Layout
    writing: View
    reading: View

    @classmethod
    def build(cls, layout: Layout, positions: RelativePositions, like: Tensor, window: int | None) -> "ChunkRows":
        """Rows of a layout with whole chunks. `window`: tokens that a token sees, itself the last; None: its chunk."""
        memory, every, device = layout.memory_tokens, layout.every, like.device
        unit = memory + every
        blind = torch.zeros(layout.groups, 1, 1, unit + memory, dtype=torch.bool, device=device)
        blind[0, ..., :unit] = True  # there is no unit before the first group
        if layout.closing and layout.filling:
            blind[-1, ..., unit - layout.filling : unit] = True
        writing = positions.view(blind.repeat(like.size(0), 1, 1, 1), unit + memory - 1, 1 - memory, like)
        distance = torch.arange(every, device=device).unsqueeze(1) - torch.arange(every, device=device)
        outside = (distance < 0) | (distance >= (every if window is None else window))
        reading = positions.view(F.pad(outside, (memory, 0), value=False), unit - 1, 1 - every, like)
        return cls(layout, writing, reading)

    def _units(self, x: Tensor) -> Tensor:
        """B x chunks x (M + every) x C: each group and the chunk after it."""
        rows = self.layout.chunks * (self.layout.memory_tokens + self.layout.every)
        return x[:, :rows].unflatten(1, (self.layout.chunks, -1))

    def _groups(self, x: Tensor) -> Tensor:
        """B x G x M x C."""
        groups = self._units(x)[:, :, : self.layout.memory_tokens]
        if not self.layout.closing:
            return groups
        return torch.cat([groups, x[:, -self.layout.memory_tokens :].unsqueeze(1)], dim=1)

    def write(self, block: nn.Module, x: Tensor) -> Tensor:
        groups = self._groups(x)
        before = F.pad(self._units(x)[:, : self.layout.groups - 1], (0, 0, 0, 0, 1, 0))
        keys = torch.cat([before, groups], dim=2)
        memory = block(groups.flatten(0, 1), keys.flatten(0, 1), self.writing)
        return memory.unflatten(0, (x.size(0), -1)).flatten(1, 2)

    def attend(self, block: nn.Module, x: Tensor) -> Tensor:
        return self.read(block, self._groups(x).flatten(1, 2), x)

    def read(self, block: nn.Module, memory: Tensor, x: Tensor) -> Tensor:
        tokens = self._units(x)[:, :, self.layout.memory_tokens :]
        groups = memory.unflatten(1, (self.layout.groups, -1))[:, : self.layout.chunks]
        keys = torch.cat([groups, tokens], dim=2)
        sequence = block(tokens.flatten(0, 1), keys.flatten(0, 1), self.reading)
        return sequence.unflatten(0, (x.size(0), -1)).flatten(1, 2)

    def join(self, memory: Tensor, sequence: Tensor) -> Tensor:
        groups = memory.unflatten(1, (self.layout.groups, -1))
        chunks = sequence.unflatten(1, (self.layout.chunks, -1))
        x = torch.cat([groups[:, : self.layout.chunks], chunks], dim=2).flatten(1, 2)
        return torch.cat([x, groups[:, -1]], dim=1) if self.layout.closing else x
