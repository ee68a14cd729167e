"""What layers over [memory; sequence] are made of in fairseq's encoder.

Shape legend: M memory tokens, T source time, B batch, C channels.
"""

from typing import NamedTuple

import torch
from fairseq import utils
from fairseq.models.transformer import TransformerConfig
from fairseq.modules import LayerNorm, MultiheadAttention
from fairseq.modules.fairseq_dropout import FairseqDropout
from fairseq.modules.quant_noise import quant_noise
from fairseq.modules.transformer_layer import TransformerEncoderLayerBase
from torch import Tensor, nn


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

    def forward(self, queries: Tensor, keys: Tensor, key_padding_mask: Tensor | None = None) -> Tensor:
        """queries Q x B x C, keys (also the values) K x B x C, mask B x K (True: ignore). Returns Q x B x C."""
        residual = queries
        if self.normalize_before:
            queries, keys = self.attention_layer_norm(queries), self.attention_layer_norm(keys)
        x, _ = self.attention(queries, keys, keys, key_padding_mask=key_padding_mask, need_weights=False)
        x = residual + self.dropout(x)
        if not self.normalize_before:
            x = self.attention_layer_norm(x)

        residual = x
        if self.normalize_before:
            x = self.final_layer_norm(x)
        x = self.fc2(self.activation_dropout(self.activation_fn(self.fc1(x))))
        x = residual + self.dropout(x)
        return x if self.normalize_before else self.final_layer_norm(x)


class EncoderLayer(TransformerEncoderLayerBase):
    """fairseq's own layer, X' = FF(Att(X, X)), down to the names of its parameters."""

    def forward(self, x: Tensor, rows: "EncoderRows") -> Tensor:
        return super().forward(x, encoder_padding_mask=rows.padding_mask)


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

    def write(self, block: nn.Module, x: Tensor) -> Tensor:
        return block(x[: self.memory_tokens], x, self.padding_mask)

    def attend(self, block: nn.Module, x: Tensor) -> Tensor:
        return block(x[self.memory_tokens :], x, self.padding_mask)

    def read(self, block: nn.Module, memory: Tensor, x: Tensor) -> Tensor:
        return block(x[self.memory_tokens :], memory)

    def join(self, memory: Tensor, sequence: Tensor) -> Tensor:
        return torch.cat([memory, sequence])
