"""fairseq's decoder layers, for one position of all beams. Shape legend: see the package."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


class Layer:
    """One layer, with its projections of the same rows joined."""

    def __init__(self, layer: Any) -> None:
        self.layer, own, cross = layer, layer.self_attn, layer.encoder_attn
        self.heads, self.width = own.num_heads, own.head_dim
        self.own = _joined((own.q_proj, own.scaling), (own.k_proj, 1), (own.v_proj, 1))
        self.query = _joined((cross.q_proj, cross.scaling))
        self.keys = _joined((cross.k_proj, 1), (cross.v_proj, 1))

    def _heads(self, x: Tensor, weights: tuple[Tensor, Tensor]) -> Tensor:
        """x B x L x C. Returns its projections P, each by head: P x B x H x L x D."""
        return F.linear(x, *weights).unflatten(-1, (-1, self.heads, self.width)).permute(2, 0, 3, 1, 4)

    def source(self, rows: Tensor) -> Tensor:
        """rows B x S x C. Returns their keys and values, 2 x B x H x S x D."""
        return self._heads(rows, self.keys).contiguous()

    def __call__(
        self, x: Tensor, own: Tensor, columns: Tensor, mask: Tensor, source: Tensor, padding: Tensor
    ) -> Tensor:
        """x B x K x C; its keys and values are written to `own` at these columns. Returns B x K x C."""
        layer, before = self.layer, self.layer.normalize_before

        y = layer.self_attn_layer_norm(x) if before else x
        projected = self._heads(y, self.own)
        own.index_copy_(3, columns, projected[1:])
        x = x + layer.self_attn.out_proj(_attend(projected[0], own[0], own[1], mask))
        x = x if before else layer.self_attn_layer_norm(x)

        y = layer.encoder_attn_layer_norm(x) if before else x
        (queries,) = self._heads(y, self.query)
        x = x + layer.encoder_attn.out_proj(_attend(queries, source[0], source[1], padding))
        x = x if before else layer.encoder_attn_layer_norm(x)

        y = layer.final_layer_norm(x) if before else x
        x = x + layer.fc2(layer.activation_fn(layer.fc1(y)))
        return x if before else layer.final_layer_norm(x)


def _joined(*projections: tuple[Any, float]) -> tuple[Tensor, Tensor]:
    """Weight and bias of several linear maps as one, each multiplied by its scale."""
    weights = torch.cat([projection.weight.detach() * scale for projection, scale in projections])
    return weights, torch.cat([projection.bias.detach() * scale for projection, scale in projections])


def _attend(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """queries B x H x K x D, keys and values B x H x L x D, mask like B x H x K x L. Returns B x K x C.

    Plain products: torch's fused kernels are made for many queries, and slow in float32 for as few as there are beams.
    """
    weights = (queries @ keys.transpose(2, 3)).add_(mask).softmax(dim=-1)
    return (weights @ values).transpose(1, 2).flatten(2)
