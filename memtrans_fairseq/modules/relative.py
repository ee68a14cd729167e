"""Attention with relative positions, as in Transformer-XL (Dai et al. 2019, section 3.3), and the block around it.

    score(i, j) = ((W_q x_i + u) . W_k x_j + (W_q x_i + v) . W_r R_(i-j)) / sqrt(D)

R_d is the sinusoidal encoding of the distance d; u and v are shared by all layers. No projection has a bias.

Shape legend: Q queries, K keys, N distances, B batch, C channels, H heads, D channels of a head.
"""

import math
from typing import Any, NamedTuple

import torch
from fairseq import utils
from torch import Tensor, nn


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
        self.heads = heads
        self.query = nn.Linear(channels, channels, bias=False)
        self.key_value = nn.Linear(channels, 2 * channels, bias=False)
        self.position = nn.Linear(channels, channels, bias=False)
        self.output = nn.Linear(channels, channels, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, queries: Tensor, keys: Tensor, view: View) -> Tensor:
        """queries B x Q x C, keys (also the values) B x K x C. Returns B x Q x C."""
        split = (self.heads, -1)
        query = self.query(queries).unflatten(-1, split)  # B x Q x H x D
        key, value = (part.unflatten(-1, split) for part in self.key_value(keys).chunk(2, dim=-1))
        position = self.position(view.encodings).unflatten(-1, split)  # N x H x D

        scale = query.size(-1) ** -0.5
        by_content = ((query + view.content_bias) * scale).transpose(1, 2)
        by_distance = ((query + view.position_bias) * scale).transpose(1, 2)
        scores = by_content @ key.permute(0, 2, 3, 1)  # B x H x Q x K
        scores = scores + by_key(by_distance @ position.permute(1, 2, 0), key.size(1), view.columns)
        weights = self.dropout(scores.masked_fill(view.hidden, -math.inf).softmax(dim=-1))
        heads = weights.to(value.dtype) @ value.transpose(1, 2)  # B x H x Q x D
        return self.output(heads.transpose(1, 2).flatten(-2))


def by_key(scores: Tensor, keys: int, columns: Tensor | None) -> Tensor:
    """From scores by distance, B x H x Q x N, to scores by key, B x H x Q x K."""
    if columns is not None:
        return scores.gather(-1, columns.expand(*scores.shape[:-2], -1, -1))
    queries = scores.size(-2)
    if queries == 1:
        return scores
    # Row i needs the K columns from Q-1-i on. With rows shorter by one, each row begins one column farther left.
    return scores.flatten(-2)[..., queries - 1 : -1].unflatten(-1, (queries, -1))[..., :keys]


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
        return self.dropout(self.fc2(self.activation_dropout(self.activation_fn(self.fc1(x)))))
