"""Beam search of fairseq's SequenceGenerator: the same hypotheses, several times as fast on a GPU.

    for sample, hypotheses in hypotheses_of(model, task, GenerationConfig(beam=4), samples): ...

fairseq's is bound by launches of small kernels and by waiting for the device: it finishes hypotheses one by one in
Python. Here a step is a fixed sequence of operations on tensors of fixed shapes that never asks the device for a
value, so on a GPU it is one CUDA graph; and several batches are translated at once, as one alone leaves gaps.

- Nothing that was computed for a beam is moved when beams are reordered. The keys of all beams of a sentence lie side
  by side, and a table of origins says whose key stands in a beam's history at each position; attention hides the rest.
- The queries of a sentence's beams are rows of one matrix, so the keys of its source are there once, not once per beam.
- Which sentences are finished is asked every few steps. They are then dropped, if that makes the others faster.

`beam_search` goes from batches to hypotheses, `step` extends all beams by one word, `layers` is the decoder's part of
that, `lanes` runs steps on the device.

Shape legend: B sentences, K beams, T positions that there is room for, S rows of the encoder's output, C channels,
H heads, D channels of a head, V words, N candidates (2 K).
"""

from collections.abc import Iterable, Iterator
from dataclasses import fields
from typing import Any

from fairseq.dataclass.configs import GenerationConfig
from fairseq.models.transformer import TransformerDecoder, TransformerDecoderBase
from fairseq.modules import MultiheadAttention
from fairseq.modules.transformer_layer import TransformerDecoderLayer, TransformerDecoderLayerBase
from torch import nn

from ..models.translation import MemoryDecoder
from .beam_search import BeamSearch, Hypotheses, Sample

__all__ = ["BeamSearch", "generator_of", "hypotheses_of", "supports"]

OPTIONS = {"beam", "nbest", "lenpen", "max_len_a", "max_len_b", "min_len", "unnormalized"}  # what the search knows


def hypotheses_of(
    model: nn.Module, task: Any, config: GenerationConfig, samples: Iterable[Sample]
) -> Iterator[tuple[Sample, Hypotheses]]:
    """fairseq's samples on the model's device, in any order, each with the best hypotheses of its sentences."""
    generator = generator_of(model, task, config)
    if isinstance(generator, BeamSearch):
        return generator.generate_all(samples)
    return ((sample, task.inference_step(generator, [model], sample)) for sample in samples)


def generator_of(model: nn.Module, task: Any, config: GenerationConfig) -> Any:
    """`BeamSearch`, or fairseq's own generator for what that cannot do. Both have fairseq's `generate`."""
    if supports(model, config):
        return BeamSearch(model, task.target_dictionary, config)
    return task.build_generator([model], config)


def supports(model: Any, config: GenerationConfig) -> bool:
    """Whether `BeamSearch` computes what this model's decoder would.

    It calls parts of the decoder's layers, not the layers: a model that somebody watches or changes by hooks in there
    is not for it. Those of the encoder are called.
    """
    plain = GenerationConfig()
    if any(getattr(config, f.name) != getattr(plain, f.name) for f in fields(config) if f.name not in OPTIONS):
        return False
    decoder: Any = getattr(model, "decoder", None)
    return (
        type(decoder) in (TransformerDecoderBase, TransformerDecoder, MemoryDecoder)
        and decoder.adaptive_softmax is None
        and decoder.quant_noise is None
        and 2 * config.beam < len(decoder.dictionary) - 2  # so that there are enough candidates from the first step on
        and all(map(_is_plain, decoder.layers))
        and not any(m._forward_hooks or m._forward_pre_hooks for m in decoder.layers.modules())
        and not any(getattr(m, "apply_during_inference", False) for m in decoder.modules())
    )


def _is_plain(layer: Any) -> bool:
    if type(layer) not in (TransformerDecoderLayerBase, TransformerDecoderLayer) or layer.cross_self_attention:
        return False
    extras = (layer.attn_ln, layer.c_attn, layer.ffn_layernorm, layer.w_resid)
    return all(extra is None for extra in extras) and all(
        type(attention) is MultiheadAttention
        and attention.bias_k is None
        and not attention.add_zero_attn
        and not attention.use_xformers
        for attention in (layer.self_attn, layer.encoder_attn)
    )
