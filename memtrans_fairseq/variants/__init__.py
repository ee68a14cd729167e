"""Memory variants: how one layer updates memory and sequence, in whatever model it stands.

Shape legend: M memory tokens, T tokens, B batch, C channels (embed_dim).

The contract. A variant is a function that takes the model's config and the host's `Parts` and returns a maker of
layers; the host calls the maker once per layer. A layer is a module

    layer(x, rows) -> x

over X, the memory rows and the sequence rows together. Which is which, which rows see which (padding, causality, a
cache) and in which shape X lies is known to `rows` alone. So a variant knows no host, and a host no variant by name:

    rows.write(block, x)         memory' = block(memory, all)     processing and WRITE
    rows.attend(block, x)        sequence' = block(sequence, all) READ and normal attention
    rows.read(block, memory, x)  sequence' = block(sequence, memory) READ alone
    rows.join(memory, sequence)  X again

Here `block(q, kv)` is FF(Att(q, kv)), made by `parts.block()`; `parts.layer()` makes the host's ordinary layer,
X' = FF(Att(X, X)). A padded position may receive any value but must never influence another one; in a language model
no row may depend on a later token.

A variant may bring options of its own (a `FairseqDataclass`); every host offers them on the command line.
To add a variant, put one file beside this one: it is found, registered on every host, and tested by the contract.
"""

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from fairseq.dataclass import FairseqDataclass
from torch import Tensor, nn

LayerMaker = Callable[[], nn.Module]


class Parts(Protocol):
    """What a host builds layers from, with its own kind of attention."""

    def layer(self) -> nn.Module:
        """The host's ordinary layer, `layer(x, rows)`: X' = FF(Att(X, X))."""

    def block(self) -> nn.Module:
        """FF(Att(q, kv)), to be handed to `rows`."""


class Rows(Protocol):
    """How the rows of X lie and see each other; see the contract above."""

    def write(self, block: nn.Module, x: Tensor) -> Tensor: ...

    def attend(self, block: nn.Module, x: Tensor) -> Tensor: ...

    def read(self, block: nn.Module, memory: Tensor, x: Tensor) -> Tensor: ...

    def join(self, memory: Tensor, sequence: Tensor) -> Tensor: ...


VariantFunction = Callable[[Any, Parts], LayerMaker]


class SettingError(ValueError):
    """Settings that cannot work together, found before training starts. The message is one line."""


@dataclass
class NoOptions(FairseqDataclass):
    """For a variant that brings no options of its own."""


@dataclass(frozen=True)
class Variant:
    """A memory update rule. `name` is the stem of the model names: `<name>_transformer`, `<name>_transformer_lm`.

    In a variant that is a `bottleneck`, what lies beyond a token's own surroundings reaches it only through memory: a
    language model then shows a token no more than its own chunk and the memory before it, at linear cost.
    """

    name: str
    layers: VariantFunction
    options: type[FairseqDataclass]
    fewest_tokens: int
    bottleneck: bool


VARIANTS: dict[str, Variant] = {}


def register_variant(
    name: str, *, options: type[FairseqDataclass] = NoOptions, fewest_tokens: int = 1, bottleneck: bool = False
) -> Callable[[VariantFunction], VariantFunction]:
    """Register the decorated `(config, parts) -> layer maker` as a variant that needs at least `fewest_tokens`."""

    def register(layers: VariantFunction) -> VariantFunction:
        if name in VARIANTS:
            raise ValueError(f"memory variant {name} is registered twice")
        VARIANTS[name] = Variant(name, layers, options, fewest_tokens, bottleneck)
        return layers

    return register


for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
