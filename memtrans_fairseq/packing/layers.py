"""fairseq's layers over packed rows: the same modules in the same order as in their own `forward`.

Shape legend: N rows of all sentences, S source rows, C channels.
"""

from typing import Any

from torch import Tensor

from ..modules.block import normalised
from .attention import attend
from .spans import Spans


def encoder_layer(layer: Any, x: Tensor, among: Spans) -> Tensor:
    """fairseq's TransformerEncoderLayerBase. x S x C, also what it returns."""
    x = _sub_layer(layer, layer.self_attn_layer_norm, x, lambda rows: attend(layer.self_attn, rows, rows, among, among))
    return _feed_forward(layer, x)


def decoder_layer(layer: Any, y: Tensor, among: Spans, encoded: Tensor, of_encoded: Spans) -> Tensor:
    """fairseq's TransformerDecoderLayerBase. y N x C, also what it returns; encoded S x C."""
    own, cross = layer.self_attn, layer.encoder_attn
    y = _sub_layer(layer, layer.self_attn_layer_norm, y, lambda q: attend(own, q, q, among, among, causal=True))
    y = _sub_layer(layer, layer.encoder_attn_layer_norm, y, lambda q: attend(cross, q, encoded, among, of_encoded))
    return _feed_forward(layer, y)


def _sub_layer(layer: Any, norm: Any, x: Tensor, function: Any) -> Tensor:
    before = layer.normalize_before
    after = x + layer.dropout_module(function(normalised(norm, x) if before else x))
    return after if before else normalised(norm, after)


def _feed_forward(layer: Any, x: Tensor) -> Tensor:
    def function(rows: Tensor) -> Tensor:
        return layer.fc2(layer.activation_dropout_module(layer.activation_fn(layer.fc1(rows))))

    return _sub_layer(layer, layer.final_layer_norm, x, function)
