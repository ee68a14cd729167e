"""Hooks that watch, and for lesions change, what a model does. Outside of `probe` a model knows nothing of them.

A layer is handed its `rows` wrapped, so that each attention is known to be the one that writes, attends or reads (see
the contract in `variants`), whatever variant it belongs to. So no variant is known here by name.

Shape legend: L layers, B batch, H heads, G chunks, Q queries, K keys, R x C a map's rows and columns, D channels.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from fairseq.modules import MultiheadAttention
from torch import Tensor, nn

from ..modules.block import EncoderRows
from ..modules.causal import DenseRows
from ..modules.relative import RelativeAttention
from ..variants import SettingError
from .axes import Axis, Places, memory_first, places, stream_tokens


class Call(NamedTuple):
    """One attention: of which layer of which part (encoder, cross, decoder), and where it stands in the layer's map."""

    part: str
    layer: int
    down: Axis
    across: Axis
    places: Places


Seen = Callable[[Call, Tensor, Tensor], None]  # weights B*G x H x Q x K, visible B*G x Q x K
Hide = Callable[[Call], Tensor]  # R x C: True where a row must not see a column; of cross-attention alike for all rows
Rewrite = Callable[[int, Tensor], Tensor]  # memory after so many layers, rows x B x D; returns the same shape


@contextmanager
def probe(
    model: Any, seen: Seen | None = None, hide: Hide | None = None, rewrite: Rewrite | None = None
) -> Iterator[None]:
    """While entered: `seen` gets every attention, `hide` hides rows from others, `rewrite` changes memory's values.

    The model must be in eval mode. Raises SettingError for a model that cannot be watched, and where hiding leaves a
    row with nothing to see.
    """
    if model.training:
        raise SettingError("attention is watched in eval mode: call model.eval() first")
    streams = getattr(model, "streams", False)
    if not streams and not hasattr(model, "encoder"):
        raise SettingError("attention of fairseq's own language model is not watched: take transformer_xl")
    watch = _Watch(model, streams, seen, hide, rewrite)
    try:
        watch.install()
        yield
    finally:
        for handle in watch.handles:
            handle.remove()


class _Forward:
    """A change of what a module's `forward` returns. Beam search calls that of an encoder past all hooks."""

    def __init__(self, module: nn.Module, change: Callable[[Any], Any]) -> None:
        self.module, self.before, forward = module, vars(module).get("forward"), module.forward
        module.forward = lambda *args, **kwargs: change(forward(*args, **kwargs))

    def remove(self) -> None:
        if self.before is None:
            del self.module.forward
        else:
            self.module.forward = self.before


class _Watched:
    """`rows` as a layer knows them, telling the watch which attention is at work."""

    def __init__(self, rows: Any, watch: "_Watch") -> None:
        self._rows, self._watch = rows, watch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._rows, name)

    def process(self, block: nn.Module, x: Tensor) -> Tensor:
        return self._during("all", self._rows.process, block, x)

    def write(self, block: nn.Module, x: Tensor) -> Tensor:
        return self._watch.rewritten(self._during("write", self._rows.write, block, x))

    def attend(self, block: nn.Module, x: Tensor) -> Tensor:
        return self._during("attend", self._rows.attend, block, x)

    def read(self, block: nn.Module, memory: Tensor, x: Tensor) -> Tensor:
        return self._during("read", self._rows.read, block, memory, x)

    def _during(self, part: str, function: Callable[..., Tensor], *arguments: Any) -> Tensor:
        self._watch.part = part
        try:
            return function(*arguments)
        finally:
            self._watch.part = "all"


class _Watch:
    def __init__(
        self, model: Any, streams: bool, seen: Seen | None, hide: Hide | None, rewrite: Rewrite | None
    ) -> None:
        self.model, self.streams, self.seen, self.hide, self.rewrite = model, streams, seen, hide, rewrite
        self.handles: list[Any] = []
        self.layer, self.part = 0, "all"
        self.rows: Any = None
        self.length = 0  # rows of X
        self.tokens: Tensor | None = None  # what the decoder reads, B x T; beam search calls no hook, and pads nothing
        self.carried = False  # whether memory comes from the segment before
        self.cached = self.after = torch.empty(0, dtype=torch.long)  # `Axis.token` of what is cached, and will be
        cfg = getattr(model.decoder, "cfg", None)
        # fairseq's own configs answer None for what they do not know
        self.memory_tokens: int = getattr(cfg, "memory_tokens", None) or 0
        self.reads: str = getattr(cfg, "decoder_reads", None) or "all"

    def install(self) -> None:
        stack = self.model.decoder if self.streams else self.model.encoder
        watched: dict[nn.Module, None] = {}  # each once: layers may share one
        for number, layer in enumerate(stack.layers):
            self.handles.append(layer.register_forward_pre_hook(partial(self._enter, number), with_kwargs=True))
            self.handles.append(layer.register_forward_hook(self._leave))
            watched |= dict.fromkeys(
                m for m in layer.modules() if isinstance(m, MultiheadAttention | RelativeAttention)
            )
        for module in watched:
            self._attach(module, self._own_call)
        if not self.streams:
            if self.hide:
                self.handles.append(_Forward(self.model.encoder, self._hide_from_decoder))
            for number, layer in enumerate(self.model.decoder.layers):
                if layer.encoder_attn is not None and self.seen:
                    call = partial(self._cross_call, number)
                    self.handles.append(
                        layer.encoder_attn.register_forward_hook(partial(self._after, call), with_kwargs=True)
                    )
        self.handles.append(self.model.decoder.register_forward_pre_hook(self._begin, with_kwargs=True))

    def _attach(self, module: nn.Module, call: Callable[..., Call]) -> None:
        if self.hide:
            self.handles.append(module.register_forward_pre_hook(partial(self._before, call), with_kwargs=True))
        if self.seen:
            self.handles.append(module.register_forward_hook(partial(self._after, call), with_kwargs=True))

    # --- the model and its layers

    def _begin(self, decoder: nn.Module, args: Any, kwargs: Any) -> None:
        self.tokens = args[0] if args else kwargs.get("src_tokens", kwargs.get("prev_output_tokens"))
        state = kwargs.get("state") or {}
        self.carried = "memory" in state
        if self.streams:
            self._know_cache(state["cache"][0].size(1) if "cache" in state else 0)

    def _know_cache(self, rows: int) -> None:
        """Interspersed memory is cached with the words, so what the rows are is known only from watching them enter."""
        if self.model.decoder.cfg.memory_placement != "interspersed":
            self.cached = torch.full((rows,), -1)
        elif not rows:
            self.cached = torch.empty(0, dtype=torch.long)
        elif rows != len(self.cached):
            raise SettingError("a cache of unknown rows: watch this model from the start of a text on")

    def _enter(self, number: int, layer: nn.Module, args: Any, kwargs: Any) -> Any:
        x, *rest = args
        own = bool(rest) and not isinstance(rest[0], Tensor)
        self.rows = rest[0] if own else EncoderRows(0, kwargs.get("encoder_padding_mask"))  # fairseq's own layer
        self.layer, self.part = number, "all"
        self.length = x.size(1 if self.streams else 0)
        if number == 0:
            x = self._rewritten_rows(0, x)
            if not self.streams:
                self.tokens = None
        return ((x, _Watched(self.rows, self)) if own else (x, *rest)), kwargs

    def _leave(self, layer: nn.Module, args: Any, x: Tensor) -> Tensor | None:
        if self.streams and self.layer == 0 and isinstance(self.rows, DenseRows):
            own = stream_tokens(self.rows, self.memory_tokens)
            self.after = torch.cat([self.cached.to(own), own])
        if self.streams and self.layer == len(self.model.decoder.layers) - 1 and self.model.decoder.mem_len:
            self.cached = self.after[-self.model.decoder.mem_len :]
        return self._rewritten_rows(self.layer + 1, x) if self.rewrite else None

    def rewritten(self, memory: Tensor) -> Tensor:
        """Memory as a layer has just written it."""
        if self.rewrite is None:
            return memory
        if not self.streams:
            return self.rewrite(self.layer + 1, memory)
        return self.rewrite(self.layer + 1, memory.transpose(0, 1)).transpose(0, 1)

    def _rewritten_rows(self, depth: int, x: Tensor) -> Tensor:
        memory = self._own_tokens(x.device) >= 0
        if self.rewrite is None or not memory.any():
            return x
        x = x.transpose(0, 1).clone() if self.streams else x.clone()
        x[memory] = self.rewrite(depth, x[memory])
        return x.transpose(0, 1) if self.streams else x

    def _own_tokens(self, device: Any) -> Tensor:
        if self.streams:
            return stream_tokens(self.rows, self.memory_tokens)
        return memory_first(self.rows.memory_tokens, self.length, device)

    # --- one attention

    def _own_call(self, queries: Tensor, keys: Tensor, padding: Tensor | None) -> Call:
        where = places(self.rows, self.part, self.length, queries.device)
        token = self._own_tokens(queries.device)
        if not self.streams:
            batch = queries.size(1)
            real = torch.ones(batch, self.length, dtype=torch.bool, device=queries.device)
            if self.rows.padding_mask is not None:
                real = ~self.rows.padding_mask
            axis = Axis.of(token, real)
            return Call("encoder", self.layer, axis, axis, where)
        assert self.tokens is not None
        real = torch.ones(self.tokens.size(0), self.length, dtype=torch.bool, device=queries.device)
        text = (token < 0).nonzero().squeeze(-1)
        real[:, text] = False  # what fills up the last chunk
        real[:, text[: self.tokens.size(1)]] = self.tokens != self.model.decoder.dictionary.pad()
        earlier = torch.zeros_like(token, dtype=torch.bool)
        earlier[: self.memory_tokens] = self.carried and bool(self.memory_tokens)
        down = Axis.of(token, real, earlier)
        before = self.cached.to(token)
        across = Axis.of(
            torch.cat([before, token]),
            torch.cat([real.new_ones(len(real), len(before)), real], dim=1),
            torch.cat([torch.ones_like(before, dtype=torch.bool), earlier]),
        )
        return Call("decoder", self.layer, down, across, where)

    def _cross_call(self, number: int, queries: Tensor, keys: Tensor, padding: Tensor | None) -> Call:
        steps, length, device = queries.size(0), keys.size(0), queries.device
        memory = {"all": self.memory_tokens, "sequence": 0, "memory": length}[self.reads]
        pad = self.model.decoder.dictionary.pad()
        asked = torch.ones(queries.size(1), steps, dtype=torch.bool, device=device)
        if self.tokens is not None:
            asked = self.tokens[:, -steps:] != pad
        asking = Axis.of(torch.full((steps,), -1, device=device), asked)
        real = torch.ones(keys.size(1), length, dtype=torch.bool, device=device) if padding is None else ~padding.bool()
        across = Axis.of(memory_first(memory, length, device), real)
        rows, columns = torch.arange(steps, device=device), torch.arange(length, device=device)
        return Call("cross", number, asking, across, Places(rows.unsqueeze(0), columns.unsqueeze(0)))

    def _hide_from_decoder(self, output: dict[str, Any]) -> dict[str, Any]:
        """What no row of the decoder may see is padding to it: so whatever decodes need not be watched."""
        assert self.hide is not None
        (padding,) = output["encoder_padding_mask"]
        padding = padding.bool()
        length, device = padding.size(1), padding.device
        asking = Axis.of(torch.full((1,), -1, device=device), torch.ones(len(padding), 1, dtype=torch.bool))
        across = Axis.of(memory_first(self.memory_tokens, length, device), ~padding)
        columns = torch.arange(length, device=device).unsqueeze(0)
        (hidden,) = self.hide(Call("cross", 0, asking, across, Places(torch.zeros_like(columns[:, :1]), columns)))
        if not hidden.any():
            return output
        read = {"all": slice(None), "sequence": slice(self.memory_tokens, None), "memory": slice(self.memory_tokens)}
        _check((padding | hidden)[:, read[self.reads]])
        return output | {"encoder_padding_mask": [padding | hidden]}

    def _before(self, make: Callable[..., Call], module: nn.Module, args: Any, kwargs: Any) -> Any:
        assert self.hide is not None
        queries, keys, padding, view = _inputs(module, args, kwargs)
        call = make(queries, keys, padding)
        rows, columns = call.places
        hidden = self.hide(call)[rows.unsqueeze(-1), columns.unsqueeze(1)] & (columns >= 0).unsqueeze(1)  # G x Q x K
        if not hidden.any():
            return None  # nothing changes, to the last bit
        if view is not None:
            both = view.hidden | _over_batch(hidden, keys.size(0))
            _check(both)
            return (queries, keys, view._replace(hidden=both)), kwargs
        _check(hidden if padding is None else hidden | padding.bool().unsqueeze(1))
        mask = hidden.squeeze(0)
        own_path = kwargs.get("incremental_state") is not None
        return args, kwargs | {"attn_mask": _as_scores(mask, queries) if own_path else mask}

    def _after(self, make: Callable[..., Call], module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        assert self.seen is not None
        queries, keys, padding, view = _inputs(module, args, kwargs)
        call = make(queries, keys, padding)
        if isinstance(module, RelativeAttention):
            weights, hidden = module.weights(*args), view.hidden
        else:
            weights, hidden = _weights_by_head(module, args, kwargs)
        hidden = hidden.squeeze(1) if hidden.dim() == 4 else hidden
        visible = ~hidden.expand(len(weights), *weights.shape[-2:])
        self.seen(call, weights, visible)


def _inputs(module: nn.Module, args: Any, kwargs: Any) -> tuple[Tensor, Tensor, Tensor | None, Any]:
    """Queries, keys, padding mask and view of a call, whoever made it."""
    if isinstance(module, RelativeAttention):
        queries, keys, view = args
        return queries, keys, None, view
    named = dict(zip(("query", "key", "value"), args, strict=False)) | kwargs
    return named["query"], named["key"], named.get("key_padding_mask"), None


def _weights_by_head(module: Any, args: Any, kwargs: Any) -> tuple[Tensor, Tensor]:
    """fairseq's attention asked once more, for scores: their softmax, B x H x Q x K; what was hidden, B x Q x K."""
    named = dict(zip(("query", "key", "value"), args, strict=False)) | kwargs
    query, key, mask = named["query"], named["key"], named.get("attn_mask")
    hidden = torch.zeros(query.size(1), query.size(0), key.size(0), dtype=torch.bool, device=query.device)
    if (padding := named.get("key_padding_mask")) is not None:
        hidden |= padding.bool().unsqueeze(1)
    if mask is not None:
        blind = mask if mask.dtype == torch.bool else mask == -torch.inf
        hidden |= blind
        named["attn_mask"] = _as_scores(blind, query)
    # an incremental state, empty and thrown away, leads fairseq's attention past torch's, which gives no scores
    scores, _ = module.forward(**named | {"incremental_state": {}, "before_softmax": True})
    return scores.softmax(dim=-1).unflatten(0, (query.size(1), -1)), hidden


def _over_batch(hidden: Tensor, entries: int) -> Tensor:
    """G x Q x K as attention over `entries` = B*G wants it: for one chunk Q x K, else B*G x 1 x Q x K."""
    if len(hidden) == 1 and entries != 1:
        return hidden.squeeze(0)
    return hidden.repeat(entries // len(hidden), 1, 1).unsqueeze(1)


def _as_scores(mask: Tensor, like: Tensor) -> Tensor:
    return torch.zeros(mask.shape, dtype=like.dtype, device=like.device).masked_fill(mask, -torch.inf)


def _check(hidden: Tensor) -> None:
    if hidden.all(dim=-1).any():
        raise SettingError("this lesion leaves rows with nothing to see: keep a memory token")
