"""Memory variants: how one encoder layer updates memory and sequence.

Shape legend: T source time, B batch, C channels (embed_dim), M memory tokens.

The contract. A variant is a function that takes the model's config and returns a maker of layers; a host calls the
maker once per layer. A layer is a module

    layer(x, encoder_padding_mask) -> x

over X = [memory; sequence], (M + T) x B x C with the M memory rows first. The mask is B x (M + T), True at padding,
False in every memory row, or None when nothing is padded. This is the signature of fairseq's own encoder layer, so
a host treats all variants alike and knows none of them by name. A padded position may receive any value but must
never influence another one.

A variant may bring options of its own (a `FairseqDataclass`); every host offers them on the command line.
To add a variant, put one file beside this one: it is found, registered on every host, and tested by the contract.
"""

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass

from fairseq.dataclass import FairseqDataclass
from fairseq.models.transformer import TransformerConfig
from torch import nn

LayerMaker = Callable[[], nn.Module]


class SettingError(ValueError):
    """Settings that cannot work together, found before training starts. The message is one line."""


@dataclass
class NoOptions(FairseqDataclass):
    """For a variant that brings no options of its own."""


@dataclass(frozen=True)
class Variant:
    """A memory update rule. `name` is the stem of the model names: `<name>_transformer` in translation."""

    name: str
    layers: Callable[[TransformerConfig], LayerMaker]
    options: type[FairseqDataclass]
    fewest_tokens: int


VARIANTS: dict[str, Variant] = {}


def register_variant(
    name: str, *, options: type[FairseqDataclass] = NoOptions, fewest_tokens: int = 1
) -> Callable[[Callable[[TransformerConfig], LayerMaker]], Callable[[TransformerConfig], LayerMaker]]:
    """Register the decorated `config -> layer maker` function as a variant that needs at least `fewest_tokens`."""

    def register(layers: Callable[[TransformerConfig], LayerMaker]) -> Callable[[TransformerConfig], LayerMaker]:
        if name in VARIANTS:
            raise ValueError(f"memory variant {name} is registered twice")
        VARIANTS[name] = Variant(name, layers, options, fewest_tokens)
        return layers

    return register


for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
