"""The models' attention recomputed in float64 from their weights and the equations alone, a sentence at a time.

Nothing of the models' own code runs here, but for the embeddings that are looked up. Rows x channels throughout.
"""

import math
from typing import Any

import torch
from torch import Tensor


def linear(x: Tensor, layer: Any) -> Tensor:
    return x @ layer.weight.T + (0 if layer.bias is None else layer.bias)


def norm(x: Tensor, layer: Any) -> Tensor:
    x = x - x.mean(-1, keepdim=True)
    return x / (x.square().mean(-1, keepdim=True) + layer.eps).sqrt() * layer.weight + layer.bias


def heads(x: Tensor, number: int) -> Tensor:
    """rows x C to heads x rows x D."""
    return x.unflatten(-1, (number, -1)).transpose(0, 1)


def feed_forward(x: Tensor, block: Any) -> Tensor:
    return linear(linear(x, block.fc1).clamp(min=0), block.fc2)


def attend(attention: Any, queries: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
    """Ordinary multi-head attention: weights, heads x Q x K, and output, Q x C."""
    number = attention.num_heads
    q, k, v = (
        heads(linear(x, p), number)
        for x, p in ((queries, attention.q_proj), (keys, attention.k_proj), (keys, attention.v_proj))
    )
    weights = torch.softmax(q @ k.transpose(1, 2) / k.size(-1) ** 0.5, dim=-1)
    return weights, linear((weights @ v).transpose(0, 1).flatten(1), attention.out_proj)


def block(module: Any, attention: Any, attention_norm: Any, q: Tensor, kv: Tensor, pre: bool) -> tuple[Tensor, Tensor]:
    """FF(Att(q, kv)): weights and output."""
    if pre:
        weights, out = attend(attention, norm(q, attention_norm), norm(kv, attention_norm))
        a = q + out
        return weights, a + feed_forward(norm(a, module.final_layer_norm), module)
    weights, out = attend(attention, q, kv)
    a = norm(q + out, attention_norm)
    return weights, norm(a + feed_forward(a, module), module.final_layer_norm)


def encoder(model: Any, source: Tensor, memory_tokens: int, pre: bool) -> tuple[list[Tensor], Tensor]:
    """source T. The map of every layer, heads x (M + T) x (M + T), and the encoder's output, (M + T) x C."""
    side, m = model.encoder, memory_tokens
    embedded = side.embed_tokens(source) * math.sqrt(side.embed_tokens.embedding_dim)
    embedded = embedded + side.embed_positions(source.unsqueeze(0))[0]
    x = torch.cat([side.memory.weight * math.sqrt(embedded.size(1)), embedded]) if m else embedded
    maps = []
    for layer in side.layers:
        if hasattr(layer, "self_attn"):
            weights, x = block(layer, layer.self_attn, layer.self_attn_layer_norm, x, x, pre)
            maps.append(weights)
            continue
        memory, sequence = layer.memory_block, layer.sequence_block
        to_memory, new = block(memory, memory.attention, memory.attention_layer_norm, x[:m], x, pre)
        bottleneck = "bottleneck" in type(layer).__name__.lower()
        seen = new if bottleneck else x
        to_sequence, text = block(sequence, sequence.attention, sequence.attention_layer_norm, x[m:], seen, pre)
        whole = x.new_zeros(to_memory.size(0), len(x), len(x))
        whole[:, :m] = to_memory
        whole[:, m:, : to_sequence.size(-1)] = to_sequence
        maps.append(whole)
        x = torch.cat([new, text])
    return maps, norm(x, side.layer_norm) if pre else x


def cross(model: Any, target: Tensor, source_rows: Tensor, pre: bool) -> list[Tensor]:
    """The cross-attention of every decoder layer, heads x T' x rows, for the encoder's rows that the decoder reads."""
    side = model.decoder
    x = side.embed_tokens(target) * math.sqrt(side.embed_tokens.embedding_dim)
    x = x + side.embed_positions(target.unsqueeze(0))[0]
    maps = []
    for layer in side.layers:
        weights, x = decoder_layer(layer, x, source_rows, pre)
        maps.append(weights)
    return maps


def decoder_layer(layer: Any, x: Tensor, source_rows: Tensor, pre: bool) -> tuple[Tensor, Tensor]:
    own = causal(layer.self_attn, norm(x, layer.self_attn_layer_norm) if pre else x)
    x = x + own if pre else norm(x + own, layer.self_attn_layer_norm)
    weights, out = attend(layer.encoder_attn, norm(x, layer.encoder_attn_layer_norm) if pre else x, source_rows)
    x = x + out if pre else norm(x + out, layer.encoder_attn_layer_norm)
    more = feed_forward(norm(x, layer.final_layer_norm) if pre else x, layer)
    return weights, x + more if pre else norm(x + more, layer.final_layer_norm)


def causal(attention: Any, x: Tensor) -> Tensor:
    q, k, v = (heads(linear(x, p), attention.num_heads) for p in (attention.q_proj, attention.k_proj, attention.v_proj))
    scores = q @ k.transpose(1, 2) / k.size(-1) ** 0.5
    scores = scores.masked_fill(torch.ones(len(x), len(x)).triu(1).bool(), -math.inf)
    return linear((scores.softmax(-1) @ v).transpose(0, 1).flatten(1), attention.out_proj)


def relative(attention: Any, positions: Any, queries: Tensor, keys: Tensor, distance: Tensor, seen: Tensor) -> Any:
    """Transformer-XL's attention, with `distance` and `seen` Q x K: weights, heads x Q x K, and output, Q x C."""
    number, channels = len(positions.content_bias), queries.size(1)
    key_weight, value_weight = attention.key_value.weight.chunk(2)
    q, k, v = (
        heads(x @ w.T, number) for x, w in ((queries, attention.query.weight), (keys, key_weight), (keys, value_weight))
    )
    steps = torch.arange(0, channels, 2).float()  # encodings are float32, whatever the model is in
    angles = distance.float().unsqueeze(-1) * 10000 ** (-steps / channels)
    encoded = torch.cat([angles.sin(), angles.cos()], dim=-1)[..., :channels].double() @ attention.position.weight.T
    r = encoded.unflatten(-1, (number, -1)).permute(2, 0, 1, 3)  # heads x Q x K x D
    by_content = (q + positions.content_bias.unsqueeze(1)) @ k.transpose(1, 2)
    by_distance = ((q + positions.position_bias.unsqueeze(1)).unsqueeze(2) * r).sum(-1)
    scores = (by_content + by_distance) / q.size(-1) ** 0.5
    weights = scores.masked_fill(~seen, -math.inf).softmax(-1)
    return weights, (weights @ v).transpose(0, 1).flatten(1) @ attention.output.weight.T


def relative_block(
    module: Any, positions: Any, q: Tensor, kv: Tensor, distance: Tensor, seen: Tensor, pre: bool = False
) -> Any:
    """FF(Att(q, kv)): weights and output."""
    if pre:
        queries, keys = norm(q, module.attention_layer_norm), norm(kv, module.attention_layer_norm)
        weights, out = relative(module.attention, positions, queries, keys, distance, seen)
        a = q + out
        return weights, a + feed_forward(norm(a, module.final_layer_norm), module)
    weights, out = relative(module.attention, positions, q, kv, distance, seen)
    a = norm(q + out, module.attention_layer_norm)
    return weights, norm(a + feed_forward(a, module), module.final_layer_norm)
