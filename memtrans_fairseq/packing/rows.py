"""The rows of [memory; sequence] of many sentences, for the layers of variants (see the contract in `variants`).

Shape legend: M memory tokens, B sentences, S source rows of all, C channels. X is (S + B x M) x C: a sentence's memory
stands before its words, as attention over both wants them.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .attention import attend
from .layers import encoder_layer
from .spans import Spans


class Permuted(torch.autograd.Function):
    """x[order], whose gradient is a permutation too, where autograd would add up one row after another."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor, back: Tensor) -> Tensor:
        ctx.save_for_backward(order, back)
        return x[order]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        _, back = ctx.saved_tensors
        return gradient[back], None, None


class PackedRows(NamedTuple):
    sequence: Spans  # among words alone
    memory: Spans  # among memory alone
    together: Spans  # in X
    order: Tensor  # of [all memory; all words], the rows that X consists of
    back: Tensor  # of X, the rows that [all memory; all words] consists of

    @classmethod
    def build(cls, sequence: Spans, memory_tokens: int) -> "PackedRows":
        device = sequence.bounds.device
        lengths, sentences = sequence.bounds.diff(), sequence.sentences
        each = torch.arange(lengths.size(0), device=device)
        memory = Spans.of(torch.full_like(lengths, memory_tokens), memory_tokens, each.repeat_interleave(memory_tokens))
        bounds = sequence.bounds + memory.bounds
        of_memory = bounds[:-1, None] + torch.arange(memory_tokens, device=device)
        of_words = torch.arange(sentences.size(0), device=device) + (sentences + 1) * memory_tokens
        back = torch.cat([of_memory.flatten(), of_words])
        order = torch.empty_like(back).scatter(0, back, torch.arange(back.size(0), device=device))
        together = Spans(bounds, torch.cat([memory.sentences, sentences])[order], sequence.longest + memory_tokens)
        return cls(sequence, memory, together, order, back)

    def join(self, memory: Tensor, sequence: Tensor) -> Tensor:
        return Permuted.apply(torch.cat([memory, sequence]), self.order, self.back)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Memory (B x M) x C and words S x C of X."""
        apart = Permuted.apply(x, self.back, self.order)
        memory_rows = self.memory.longest * (self.memory.bounds.size(0) - 1)
        return apart[:memory_rows], apart[memory_rows:]

    def ordinary(self, layer: Any, x: Tensor) -> Tensor:
        return encoder_layer(layer, x, self.together)

    def write(self, block: nn.Module, x: Tensor) -> Tensor:
        memory, _ = self.split(x)
        return block(memory, x, _among(self.memory, self.together))

    def attend(self, block: nn.Module, x: Tensor) -> Tensor:
        _, sequence = self.split(x)
        return block(sequence, x, _among(self.sequence, self.together))

    def read(self, block: nn.Module, memory: Tensor, x: Tensor) -> Tensor:
        _, sequence = self.split(x)
        return block(sequence, memory, _among(self.sequence, self.memory))


def _among(queries: Spans, keys: Spans) -> Callable[..., Tensor]:
    """What a block calls its attention through."""
    return lambda module, q, k: attend(module, q, k, queries, keys)
