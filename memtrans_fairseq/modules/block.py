"""What layers over [memory; sequence] are made of in fairseq's encoder.

Shape legend: M memory tokens, T source time, B batch, C channels.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import torch
from fairseq import utils
from fairseq.models.transformer import TransformerConfig
from fairseq.modules import LayerNorm, MultiheadAttention
from fairseq.modules.fairseq_dropout import FairseqDropout
from fairseq.modules.quant_noise import quant_noise
from fairseq.modules.transformer_layer import TransformerEncoderLayerBase
from torch import Tensor, nn

if TYPE_CHECKING:
    from ..packing.rows import PackedRows

# How rows see each other: Att(q, kv) from an attention module, queries and keys.
Attend = Callable[[MultiheadAttention, Tensor, Tensor], Tensor]

ONE_SIDED = 32  # keys for each query


class Block(nn.Module):
    """FF(Att(q, kv)), with the layer norm after each residual (post-LN, the paper's) or before each sub-layer (pre-LN).

    In pre-LN, queries and keys are normalised by the same layer norm, as they are when both are the same rows.
    """

    def __init__(self, cfg: TransformerConfig) -> None:
        super().__init__()
        encoder, noise = cfg.encoder, cfg.quant_noise
        self.normalize_before = encoder.normalize_before
        self.attention = MultiheadAttention(
            encoder.embed_dim,
            encoder.attention_heads,
            dropout=cfg.attention_dropout,
            q_noise=noise.pq,
            qn_block_size=noise.pq_block_size,
        )
        self.attention_layer_norm = LayerNorm(encoder.embed_dim, export=cfg.export)
        self.fc1 = quant_noise(nn.Linear(encoder.embed_dim, encoder.ffn_embed_dim), noise.pq, noise.pq_block_size)
        self.fc2 = quant_noise(nn.Linear(encoder.ffn_embed_dim, encoder.embed_dim), noise.pq, noise.pq_block_size)
        self.final_layer_norm = LayerNorm(encoder.embed_dim, export=cfg.export)
        self.activation_fn = utils.get_activation_fn(cfg.activation_fn)
        self.dropout = FairseqDropout(cfg.dropout, module_name=type(self).__name__)
        self.activation_dropout = FairseqDropout(
            float(cfg.activation_dropout or cfg.relu_dropout or 0), module_name=type(self).__name__
        )

    def forward(self, queries: Tensor, keys: Tensor, attend: Attend) -> Tensor:
        """queries Q x B x C, keys (also the values) K x B x C. Returns Q x B x C."""
        residual = queries
        if self.normalize_before:
            queries, keys = normalised(self.attention_layer_norm, queries), normalised(self.attention_layer_norm, keys)
        x = residual + self.dropout(attend(self.attention, queries, keys))
        if not self.normalize_before:
            x = normalised(self.attention_layer_norm, x)

        residual = x
        if self.normalize_before:
            x = normalised(self.final_layer_norm, x)
        x = self.fc2(self.activation_dropout(self.activation_fn(self.fc1(x))))
        x = residual + self.dropout(x)
        return x if self.normalize_before else normalised(self.final_layer_norm, x)


def normalised(norm: nn.Module, x: Tensor) -> Tensor:
    """Autocast's layer norms give float32; where layers hand on half precision, they stay in it: half as many bytes."""
    return norm(x).to(x.dtype)


class EncoderLayer(TransformerEncoderLayerBase):
    """fairseq's own layer, X' = FF(Att(X, X)), down to the names of its parameters."""

    def forward(self, x: Tensor, rows: "EncoderRows | PackedRows") -> Tensor:
        return rows.ordinary(self, x)


class EncoderParts:
    """What the encoder's layers are built from: see the contract in `variants`."""

    def __init__(self, cfg: TransformerConfig) -> None:
        self.cfg = cfg

    def layer(self) -> nn.Module:
        return EncoderLayer(self.cfg)

    def block(self) -> nn.Module:
        return Block(self.cfg)


class EncoderRows(NamedTuple):
    """Rows of X = [memory; sequence], (M + T) x B x C. All see all but padding: B x (M + T), True there, or None."""

    memory_tokens: int
    padding_mask: Tensor | None

    def ordinary(self, layer: EncoderLayer, x: Tensor) -> Tensor:
        return TransformerEncoderLayerBase.forward(layer, x, self.padding_mask)

    def write(self, block: nn.Module, x: Tensor) -> Tensor:
        return block(x[: self.memory_tokens], x, _ignoring(self.padding_mask))

    def attend(self, block: nn.Module, x: Tensor) -> Tensor:
        return block(x[self.memory_tokens :], x, _ignoring(self.padding_mask))

    def read(self, block: nn.Module, memory: Tensor, x: Tensor) -> Tensor:
        return block(x[self.memory_tokens :], memory, _ignoring(None))

    def join(self, memory: Tensor, sequence: Tensor) -> Tensor:
        return torch.cat([memory, sequence])


def _ignoring(padding_mask: Tensor | None) -> Attend:
    def attend(attention: MultiheadAttention, queries: Tensor, keys: Tensor) -> Tensor:
        few = keys.size(0) >= ONE_SIDED * queries.size(0)
        cheaper = few and attention.num_heads * queries.size(0) < attention.embed_dim
        if cheaper and attention.training and _is_plain(attention):
            return few_queries(attention, queries, keys, padding_mask)
        # Torch's fused kernel for padding is slow with a few queries, memory's: 20 of 16,384 keys take seven times as
        # long as plain products, which torch takes when it is asked for the weights.
        plain = padding_mask is not None and few
        return attention(queries, keys, keys, key_padding_mask=padding_mask, need_weights=plain)[0]

    return attend


def _is_plain(attention: MultiheadAttention) -> bool:
    """Whether its weights sum to one, and its projections are matrices without quantisation noise."""
    projections = (attention.q_proj, attention.k_proj, attention.v_proj, attention.out_proj)
    plain = all(type(project) is nn.Linear and not project._forward_pre_hooks for project in projections)
    return plain and not attention.dropout_module.p


def few_queries(attention: MultiheadAttention, queries: Tensor, keys: Tensor, padding_mask: Tensor | None) -> Tensor:
    """What `attention` gives for a few queries of many keys, which are also the values, without projecting the keys.

    softmax((x Wq) (y Wk)') y Wv is softmax((x Wq Wk') y') y Wv: the queries are projected to the keys' channels, and
    what they have seen to the values', H * Q rows in place of K. queries Q x B x C, keys K x B x C, padding_mask
    B x K or None. Returns Q x B x C.
    """
    heads, channels = attention.num_heads, attention.embed_dim
    to_keys, to_values = (project.weight.view(heads, -1, channels) for project in (attention.k_proj, attention.v_proj))
    x = (attention.q_proj(queries) * attention.scaling).unflatten(-1, (heads, -1))  # Q x B x H x C / H
    y = keys.transpose(0, 1)
    # a constant of each row, which softmax takes away: so the bias of the keys has its gradient, nothing but rounding
    constant = torch.einsum("qbhd,hd->bhq", x, attention.k_proj.bias.view(heads, -1)).flatten(1).unsqueeze(-1)
    rows = torch.einsum("qbhd,hdc->bhqc", x, to_keys).flatten(1, 2)
    scores = torch.baddbmm(constant, rows, y.transpose(1, 2))  # B x H * Q x K
    if padding_mask is not None:
        scores = scores.masked_fill(padding_mask.unsqueeze(1), float("-inf"))
    weights = scores.softmax(-1, dtype=torch.float32).to(scores.dtype)
    seen = torch.bmm(weights, y).unflatten(1, (heads, -1))  # B x H x Q x C
    values = torch.einsum("bhqc,hdc->qbhd", seen, to_values).flatten(2) + attention.v_proj.bias
    return attention.out_proj(values)
