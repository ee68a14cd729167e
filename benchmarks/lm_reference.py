"""The Memory Transformer authors' later language model (github.com/booydar/LM-RMT, folder pytorch/), as an oracle.

It is not part of this project: the user names the folder in which it lies. Here is how to load and build it, and which
of its parameters is what, and how its train.py trains it. It reads tokens T x B and returns losses T x B.
"""

import inspect
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

NO_PREFERENCE = {"dropout": 0.0, "dropatt": 0.0, "tie_weight": True, "div_val": 1, "pre_lnorm": False, "ext_len": 0}


def load(folder: str) -> Any:
    """The reference's model class. Ends the process with one line if it does not lie there."""
    if not (Path(folder) / "mem_transformer.py").exists():
        sys.exit(f"error: no mem_transformer.py in {folder}; expected the folder pytorch/ of LM-RMT or transformer-xl")
    sys.path[:0] = [str(folder), str(Path(folder) / "utils")]
    # it reads CUDA's version while it is imported, which a torch for CPUs does not have
    with mock.patch.object(torch.version, "cuda", torch.version.cuda or "0.0"):
        from mem_transformer import MemTransformerLM
    return MemTransformerLM


def build(model_class: Any, **settings: Any) -> Any:
    """A model with `settings`, under the reference's names, its losses in the order of the targets.

    Without settings of memory it has none. Raises ValueError where the class has none and should.
    """
    known = inspect.signature(model_class).parameters
    if settings.get("num_mem_tokens") and "num_mem_tokens" not in known:
        raise ValueError("this reference has no memory: give the folder pytorch/ of LM-RMT")
    cutoffs = settings["cutoffs"]
    given = NO_PREFERENCE | {"tie_projs": [False] + [True] * len(cutoffs), "mem_len": 0, "num_mem_tokens": 0} | settings
    model = model_class(**{name: value for name, value in given.items() if name in known})
    model.crit.keep_order = True  # else the losses come sorted by cluster, which only their mean does not notice
    return model


def segment(
    model: Any, inputs: Tensor, targets: Tensor, cache: Sequence[Tensor] = (), memory: Tensor | None = None
) -> tuple[Tensor, Sequence[Tensor], Tensor | None]:
    """inputs and targets T x B. Returns losses T x B, and the cache and the carried memory for the next segment.

    Memory at the front alone starts anew in each segment. (train.py hands its output on, which holds nothing of the
    text either: these rows see only each other.)
    """
    if not getattr(model, "num_mem_tokens", 0):
        losses, *cache = model(inputs, targets, *cache)
        return losses, cache, None
    start = model.mem_tokens.expand(-1, inputs.size(1), -1)
    written, losses, *cache = model(inputs, targets, *cache, mem_tokens=start if memory is None else memory)
    return losses, cache, written if model.mem_at_end else None


def as_theirs(tokens: Tensor) -> Tensor:
    """fairseq's tokens B x T as the reference's, T x B: without <s> and <pad>, which have no words there."""
    return (tokens - 2).T.contiguous()


@torch.no_grad()
def initialise(model: Any) -> None:
    """Random weights of the usual size; its train.py draws them so, the class itself does not."""
    for name, parameter in model.named_parameters():
        if name.endswith("bias") and parameter.dim() == 1:
            parameter.zero_()
        elif name != "mem_tokens":
            parameter.normal_(float("layer_norm" in name), 0.02)


class Training:
    """Its train.py: Adam, clipped gradients, a learning rate that falls to 0 like a cosine. `precision`: fp32, tf32
    (which the process must have switched on) or bf16, its code under autocast. `depth`: earlier segments that are run
    once more, so that gradients go back through carried memory (its mem_backprop_depth). It runs them from the present
    memory, which they wrote themselves; with `rewind`, from the one before them.
    """

    def __init__(
        self,
        model: Any,
        updates: int,
        precision: str = "fp32",
        depth: int = 0,
        lr: float = 2.5e-4,
        rewind: bool = False,
    ):
        self.model, self.updates, self.precision, self.depth = model, updates, precision, depth
        self.lr, self.rewind = lr, rewind
        self.optimizer = torch.optim.Adam(model.parameters(), lr=lr)
        self.done = 0
        self.cache: Sequence[Tensor] = ()
        self.memory: Tensor | None = None
        self.earlier: list[tuple[Tensor, Tensor, Sequence[Tensor], Tensor | None]] = []

    def update(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """One update on inputs and targets T x B. Returns the mean loss before it, in nats."""
        self.optimizer.param_groups[0]["lr"] = self.lr * (1 + math.cos(math.pi * self.done / self.updates)) / 2
        self.optimizer.zero_grad()
        self.memory = None if self.memory is None else self.memory.detach()
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            if self.earlier and self.rewind:
                self.memory = self.earlier[0][-1]
            for before in self.earlier:
                self.memory = segment(self.model, *before[:3], self.memory)[2]
            if self.depth:
                start = None if self.memory is None else self.memory.detach()
                self.earlier = [*self.earlier, (inputs, targets, self.cache, start)][-self.depth :]
            losses, self.cache, self.memory = segment(self.model, inputs, targets, self.cache, self.memory)
        loss = losses.float().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 0.25)
        self.optimizer.step()
        self.done += 1
        return loss.detach()


def use_signed_distances(model: Any) -> None:
    """Give it positions of negative distances, which a memory row has from a later one, and a shift that finds them.

    Its own relative shift puts other scores there; without memory this changes nothing.
    """

    class Signed(nn.Module):
        def __init__(self, positions: nn.Module) -> None:
            super().__init__()
            self.positions = positions  # a part of it, so that it moves to the model's device

        def forward(self, distances: Tensor) -> Tensor:
            return self.positions(torch.arange(len(distances) - 1.0, -len(distances), -1, device=distances.device))

    def shift(scores: Tensor) -> Tensor:
        queries, keys = scores.shape[0], (scores.shape[1] + 1) // 2
        rows = torch.arange(queries, device=scores.device)[:, None]
        return scores[rows, queries - 1 - rows + torch.arange(keys, device=scores.device)]

    model.pos_emb = Signed(model.pos_emb)
    for layer in model.layers:
        layer.dec_attn._rel_shift = shift


@contextmanager
def double_precision() -> Iterator[None]:
    """While open, the reference computes in float64 throughout: it casts some values to float32 by name."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with mock.patch.object(torch, "float", torch.float64), mock.patch.object(torch.Tensor, "float", Tensor.double):
            yield
    finally:
        torch.set_default_dtype(before)


def layer_names(layer: int) -> dict[str, str]:
    """Our name: the reference's, of one layer's parameters. Its q, k and v are stacked in this order in one matrix."""
    attention, feed_forward = f"layers.{layer}.dec_attn", f"layers.{layer}.pos_ff"
    names = {
        "query_key_value": f"{attention}.qkv_net.weight",
        "relative_position": f"{attention}.r_net.weight",
        "output": f"{attention}.o_net.weight",
        "attention_norm.weight": f"{attention}.layer_norm.weight",
        "attention_norm.bias": f"{attention}.layer_norm.bias",
        "ffn_in.weight": f"{feed_forward}.CoreNet.0.weight",
        "ffn_in.bias": f"{feed_forward}.CoreNet.0.bias",
        "ffn_out.weight": f"{feed_forward}.CoreNet.3.weight",
        "ffn_out.bias": f"{feed_forward}.CoreNet.3.bias",
        "ffn_norm.weight": f"{feed_forward}.layer_norm.weight",
        "ffn_norm.bias": f"{feed_forward}.layer_norm.bias",
    }
    return {f"layers.{layer}.{ours}": theirs for ours, theirs in names.items()}
