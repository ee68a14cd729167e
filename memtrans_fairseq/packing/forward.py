"""A translation model's loss on a packed batch: fairseq's transformer, and this project's, on the same parameters.

Shape legend: S source rows of all sentences, T target rows, B sentences, M memory tokens, C channels, V vocabulary.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from fairseq.modules import SinusoidalPositionalEmbedding
from fairseq.modules.transformer_layer import TransformerEncoderLayerBase
from torch import Tensor, nn

from ..modules.block import normalised
from ..variants import SettingError
from .batches import PackedBatch
from .layers import decoder_layer
from .rows import PackedRows

# options of fairseq's transformer that change what is computed, with the values under which it is computed here
PLAIN: dict[str, Any] = {
    "attention_dropout": 0.0,
    "encoder.layerdrop": 0.0,
    "decoder.layerdrop": 0.0,
    "quant_noise.pq": 0.0,
    "quant_noise.scalar": 0.0,
    "adaptive_input": False,
    "adaptive_softmax_cutoff": None,
    "base_layers": 0,
    "checkpoint_activations": False,
    "cross_self_attention": False,
    "no_cross_attention": False,
    **{f"scale_{what}": False for what in ("fc", "attn", "heads", "resids")},
}
# torch's compiler, where it has this option, sums over rows and over columns in one kernel. In the backward pass of a
# layer norm that takes 0.18 ms on an H200, where one kernel for each takes 0.08 in all (benchmarks/README.md).
JOINED_SUMS = "triton.mix_order_reduction"


def check(model: Any) -> None:
    """Refuse a model that packed batches cannot train. Raises SettingError."""
    cfg = model.cfg
    for option, plain in PLAIN.items():
        value = functools.reduce(lambda found, name: getattr(found, name, None), option.split("."), cfg)
        if value not in (plain, None):
            flag = option.replace(".", "-").replace("_", "-")
            raise SettingError(f"packed batches are for models without --{flag}, got {value}: train without packing")
    if cfg.encoder.embed_dim != cfg.decoder.embed_dim or cfg.decoder.embed_dim != cfg.decoder.output_dim:
        raise SettingError("packed batches are for models whose encoder and decoder are equally wide")


def loss_of(model: Any, batch: PackedBatch, smoothing: float) -> tuple[Tensor, Tensor]:
    """The label-smoothed cross-entropy in nats and the plain one, both summed over the batch."""
    x, rows = encode(model.encoder, batch)
    features = decode(model.decoder, batch, x, rows)
    words = model.decoder.output_projection.weight
    return cross_entropy(features, words, batch.target.words, smoothing, model.decoder.padding_idx)


@functools.cache
def compiled_loss(cuda_graphs: bool) -> Callable[..., tuple[Tensor, Tensor]]:
    """`loss_of` compiled: on a GPU one graph; on a CPU attention is left out of it.

    With `cuda_graphs` a GPU runs it as one CUDA graph there and one back. What it returns, and the gradients, then lie
    where the next call writes: see `modules.graphs`.
    """
    options: dict[str, Any] = {"triton.cudagraphs": cuda_graphs}
    if JOINED_SUMS in torch._inductor.list_options():
        options[JOINED_SUMS] = False
    return torch.compile(loss_of, options=options)


def encode(encoder: Any, batch: PackedBatch) -> tuple[Tensor, PackedRows]:
    """X after the last layer, (S + B x M) x C."""
    memory = getattr(encoder, "memory", None)
    memory_tokens = memory.weight.size(0) if memory is not None else 0
    rows = PackedRows.build(batch.source.spans, memory_tokens)
    prefix = memory_tokens if memory_tokens and encoder.cfg.memory_positions == "prefix" else 0
    x = _embedded(encoder, batch.source.words, batch.source.places + prefix)
    if memory is not None:
        slots = encoder.embed_scale * memory.weight
        if prefix:
            slots = slots + _positions(encoder, torch.arange(prefix, device=x.device))
        x = rows.join(slots.repeat(rows.memory.bounds.size(0) - 1, 1).to(x), x)
    x = _entering(encoder, x)
    for layer in encoder.layers:
        x = rows.ordinary(layer, x) if isinstance(layer, TransformerEncoderLayerBase) else layer(x, rows)
    return x if encoder.layer_norm is None else normalised(encoder.layer_norm, x), rows


def decode(decoder: Any, batch: PackedBatch, x: Tensor, rows: PackedRows) -> Tensor:
    """Features T x C."""
    reads = getattr(decoder.cfg, "decoder_reads", None) or "all"  # fairseq's own config says None of what it lacks
    encoded, of_encoded = x, rows.together
    if reads != "all":
        memory, sequence = rows.split(x)
        encoded, of_encoded = (memory, rows.memory) if reads == "memory" else (sequence, rows.sequence)
    y = _entering(decoder, _embedded(decoder, batch.previous, batch.target.places))
    for layer in decoder.layers:
        y = decoder_layer(layer, y, batch.target.spans, encoded, of_encoded)
    return y if decoder.layer_norm is None else normalised(decoder.layer_norm, y)


def _embedded(side: Any, words: Tensor, places: Tensor) -> Tensor:
    return side.embed_scale * side.embed_tokens(words) + _positions(side, places)


def _positions(side: Any, places: Tensor) -> Tensor | float:
    """Encodings of places counted from 0. (fairseq counts from behind the padding symbol's index.)"""
    if side.embed_positions is None:
        return 0.0
    sinusoidal = isinstance(side.embed_positions, SinusoidalPositionalEmbedding)
    table = side.embed_positions.weights if sinusoidal else side.embed_positions.weight
    return table[places + side.padding_idx + 1]


def _entering(side: Any, x: Tensor) -> Tensor:
    """What the first layer gets: in half precision where autocast computes in it."""
    if side.layernorm_embedding is not None:
        x = side.layernorm_embedding(x)
    x = side.dropout_module(x)
    device = x.device.type
    return x.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else x


def settle(model: nn.Module) -> None:
    """Bring fairseq's tables of sinusoids to where the model is; it would do so in its own `forward`."""
    for module in model.modules():
        if isinstance(module, SinusoidalPositionalEmbedding):
            module.weights = module.weights.to(module._float_tensor)


class CrossEntropy(torch.autograd.Function):
    """Of the logits `features @ weight.T`, with their gradient in closed form.

    With p the softmax and e = smoothing / (V - 1), d loss / d logit_j = p_j - e - (1 - smoothing - e) [j = target], so
    that neither p nor its logarithm is kept in float32: only logits, and one number for each row.
    """

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, weight: Tensor, target: Tensor, smoothing: float, padding: int
    ) -> tuple[Tensor, Tensor]:
        logits = features @ weight.to(features.dtype).T
        wide = _wide(logits)
        normaliser = wide.logsumexp(dim=1)
        counts = target != padding
        plain = (normaliser - wide.gather(1, target[:, None])[:, 0]) * counts
        rest = (logits.size(1) * normaliser - wide.sum(dim=1)) * counts
        each = smoothing / (logits.size(1) - 1)
        ctx.save_for_backward(features, weight, target, logits, normaliser, counts)
        ctx.smoothing, ctx.each = smoothing, each
        plain_sum = plain.sum()
        ctx.mark_non_differentiable(plain_sum)
        return (1 - smoothing - each) * plain.sum() + each * rest.sum(), plain_sum

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor, Tensor, None, None, None]:  # type: ignore[override]
        features, weight, target, logits, normaliser, counts = ctx.saved_tensors
        words = torch.arange(logits.size(1), device=logits.device)
        at_logits = (_wide(logits) - normaliser[:, None]).exp() - ctx.each
        at_logits = at_logits - (1 - ctx.smoothing - ctx.each) * (words == target[:, None])
        at_logits = (at_logits * (gradient * counts)[:, None]).to(logits.dtype)
        at_weight = (at_logits.T @ features).to(weight.dtype)
        return at_logits @ weight.to(logits.dtype), at_weight, None, None, None


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def cross_entropy(
    features: Tensor, weight: Tensor, target: Tensor, smoothing: float, padding: int
) -> tuple[Tensor, Tensor]:
    """features T x C, weight V x C, target T. Sums over rows that are no padding, in nats: smoothed and plain.

    The smoothed one is fairseq's: `smoothing` is spread over all V - 1 other words.
    """
    return CrossEntropy.apply(features, weight, target, smoothing, padding)
