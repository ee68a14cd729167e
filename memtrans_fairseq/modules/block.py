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

from .one_sided import RATIO, few_keys, few_queries, reorders

if TYPE_CHECKING:
    from ..packing.rows import PackedRows

# How rows see each other: Att(q, kv) from an attention module, queries and keys.
Attend = Callable[[MultiheadAttention, Tensor, Tensor], Tensor]


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
        if reorders(attention, few=queries, many=keys):
            return few_queries(attention, queries, keys, padding_mask)
        if padding_mask is None and reorders(attention, few=keys, many=queries):
            return few_keys(attention, queries, keys)
        # Torch's fused kernel for padding is slow with a few queries, memory's: 20 of 16,384 keys take seven times as
        # long as plain products, which torch takes when it is asked for the weights.
        plain = padding_mask is not None and keys.size(0) >= RATIO * queries.size(0)
        return attention(queries, keys, keys, key_padding_mask=padding_mask, need_weights=plain)[0]

    return attend
