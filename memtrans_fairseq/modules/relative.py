"""Attention with relative positions, as in Transformer-XL (Dai et al. 2019, section 3.3), and the block around it.

    score(i, j) = ((W_q x_i + u) . W_k x_j + (W_q x_i + v) . W_r R_(i-j)) / sqrt(D)

R_d is the sinusoidal encoding of the distance d; u and v are shared by all layers. No projection has a bias.

Shape legend: Q queries, K keys, N distances, B batch, C channels, H heads, D channels of a head.
"""

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from fairseq import utils
from torch import Tensor, nn

from .aligned import filling, linear


class View(NamedTuple):
    """What queries see of keys: all that attention needs beside its own weights."""

    hidden: Tensor  # Q x K, or B x 1 x Q x K: True where the query must not see the key
    encodings: Tensor  # N x C: R of the largest distance, and of each smaller one down to the smallest
    content_bias: Tensor  # u, H x D
    position_bias: Tensor  # v, H x D
    # Q x K: which of the N distances lies between query and key. None: queries and keys are consecutive rows, so that
    # the first of the N is that of the last query from the first key, and N = Q + K - 1.
    columns: Tensor | None


class RelativePositions(nn.Module):
    """u, v and R. Distances beyond `clamp_len` count as this one; 0 is no limit."""

    def __init__(self, channels: int, heads: int, dropout: float, clamp_len: int = 0) -> None:
        super().__init__()
        self.content_bias = nn.Parameter(torch.empty(heads, channels // heads))
        self.position_bias = nn.Parameter(torch.empty(heads, channels // heads))
        self.dropout = nn.Dropout(dropout)
        self.clamp_len = clamp_len
        self.channels = channels

    def view(self, hidden: Tensor, largest: int, smallest: int, like: Tensor, columns: Tensor | None = None) -> View:
        """A view whose distances go from `largest` down to `smallest`, with encodings of the type of `like`."""
        smallest -= filling(largest - smallest + 1, like)  # a few more do no harm: see `linear`
        # The numbers are computed in float32: half precision does not tell large distances apart.
        distances = torch.arange(largest, smallest - 1, -1, device=like.device, dtype=torch.float32)
        if self.clamp_len:
            distances = distances.clamp(max=self.clamp_len)
        steps = torch.arange(0, self.channels, 2, device=like.device, dtype=distances.dtype)
        angles = torch.outer(distances, 10000 ** (-steps / self.channels))
        encodings = torch.cat([angles.sin(), angles.cos()], dim=-1)[:, : self.channels].to(like)
        return View(hidden, self.dropout(encodings), self.content_bias, self.position_bias, columns)


class RelativeAttention(nn.Module):
    """Multi-head attention with relative positions; `dropout` is on the attention weights."""

    def __init__(self, channels: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.width = channels // heads
        self.query = nn.Linear(channels, channels, bias=False)
        self.key_value = nn.Linear(channels, 2 * channels, bias=False)
        self.position = nn.Linear(channels, channels, bias=False)
        self.output = nn.Linear(channels, channels, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, queries: Tensor, keys: Tensor, view: View) -> Tensor:
        """queries B x Q x C, keys (also the values) B x K x C. Returns B x Q x C."""
        query, (key, value) = self._projected(queries, keys)
        weights = self.dropout(self._weights(query, key, view))
        heads = weights.to(value.dtype) @ value.transpose(1, 2)  # B x H x Q x D
        empty = value.size(-1) - self.width
        output = F.pad(self.output.weight.unflatten(1, (-1, self.width)), (0, empty)).flatten(1)
        return linear(heads.transpose(1, 2).flatten(-2), output)

    def weights(self, queries: Tensor, keys: Tensor, view: View) -> Tensor:
        """The attention weights alone, before dropout: B x H x Q x K."""
        query, (key, _) = self._projected(queries, keys)
        return self._weights(query, key, view)

    def _projected(self, queries: Tensor, keys: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Queries, B x Q x H x D, and keys and values, each B x K x H x D."""
        return self._heads(queries, self.query), self._heads(keys, self.key_value).chunk(2, dim=-2)

    def _weights(self, query: Tensor, key: Tensor, view: View) -> Tensor:
        position = self._heads(view.encodings, self.position)  # N x H x D
        scale, empty = self.width**-0.5, query.size(-1) - self.width
        by_content = ((query + F.pad(view.content_bias, (0, empty))) * scale).transpose(1, 2)
        by_distance = ((query + F.pad(view.position_bias, (0, empty))) * scale).transpose(1, 2)
        scores = by_content @ key.permute(0, 2, 3, 1)  # B x H x Q x K
        scores = scores + by_key(by_distance @ position.permute(1, 2, 0), key.size(1), view.columns)
        return scores.masked_fill(view.hidden, -math.inf).softmax(dim=-1)

    def _heads(self, x: Tensor, projection: nn.Linear) -> Tensor:
        """Project ... x C to heads, ... x H x D (twice as many for keys and values), D filled up with zeros."""
        weight = projection.weight.unflatten(0, (-1, self.width))
        filled = F.pad(weight, (0, 0, 0, filling(self.width, x)))
        return linear(x, filled.flatten(0, 1)).unflatten(-1, filled.shape[:2])


def by_key(scores: Tensor, keys: int, columns: Tensor | None) -> Tensor:
    """From scores by distance, B x H x Q x N, to scores by key, B x H x Q x K."""
    if columns is not None:
        return scores.gather(-1, columns.expand(*scores.shape[:-2], -1, -1))
    return scores[..., :keys] if scores.size(-2) == 1 else Shift.apply(scores, keys)


class Shift(torch.autograd.Function):
    """Row i of ... x Q x N from column Q-1-i on, K columns of it.

    Seen as rows shorter by one, from column Q-1 of the first on, each begins one column farther left: no copy is made.
    (What autograd itself does with these views on the way back takes several copies, and more time than attention.)
    """

    @staticmethod
    def forward(ctx: Any, scores: Tensor, keys: int) -> Tensor:
        ctx.distances = scores.size(-1)
        return _shifted(scores, keys)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        function = unshift if torch.compiler.is_compiling() else _unshifted  # a custom operator imports the compiler
        return function(gradient, ctx.distances), None


def _shifted(scores: Tensor, keys: int) -> Tensor:
    queries = scores.size(-2)
    return scores.flatten(-2)[..., queries - 1 : -1].unflatten(-1, (queries, -1))[..., :keys]


def _unshifted(gradient: Tensor, distances: int) -> Tensor:
    """The gradient of `Shift`: ... x Q x K to ... x Q x N."""
    found = gradient.new_zeros(*gradient.shape[:-1], distances)
    _shifted(found, gradient.size(-1)).copy_(gradient)
    return found


unshift = torch.library.custom_op("memtrans::unshift", _unshifted, mutates_args=())  # as one step of what is compiled


@unshift.register_fake
def _(gradient: Tensor, distances: int) -> Tensor:
    return gradient.new_empty(*gradient.shape[:-1], distances)


class CausalBlock(nn.Module):
    """FF(Att(q, kv)), with the layer norm after each residual (post-LN) or before each sub-layer (pre-LN).

    In pre-LN, queries and keys are normalised by the same layer norm, as they are when both are the same rows.
    """

    def __init__(self, cfg: Any) -> None:
        super().__init__()
        channels = cfg.decoder_embed_dim
        self.normalize_before = cfg.decoder_normalize_before
        self.attention = RelativeAttention(channels, cfg.decoder_attention_heads, cfg.attention_dropout)
        self.attention_layer_norm = nn.LayerNorm(channels)
        self.fc1 = nn.Linear(channels, cfg.decoder_ffn_embed_dim)
        self.fc2 = nn.Linear(cfg.decoder_ffn_embed_dim, channels)
        self.final_layer_norm = nn.LayerNorm(channels)
        self.activation_fn = utils.get_activation_fn(cfg.activation_fn)
        self.dropout = nn.Dropout(cfg.dropout)
        self.activation_dropout = nn.Dropout(cfg.activation_dropout)

    def forward(self, queries: Tensor, keys: Tensor, view: View) -> Tensor:
        """queries B x Q x C, keys (also the values) B x K x C. Returns B x Q x C."""
        if self.normalize_before:
            norm = self.attention_layer_norm
            x = queries + self.dropout(self.attention(norm(queries), norm(keys), view))
            return x + self._feed_forward(self.final_layer_norm(x))
        x = self.attention_layer_norm(queries + self.dropout(self.attention(queries, keys, view)))
        return self.final_layer_norm(x + self._feed_forward(x))

    def _feed_forward(self, x: Tensor) -> Tensor:
        x = self.activation_fn(linear(x, self.fc1.weight, self.fc1.bias))
        return self.dropout(linear(self.activation_dropout(x), self.fc2.weight, self.fc2.bias))
