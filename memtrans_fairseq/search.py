"""Beam search of fairseq's SequenceGenerator: the same hypotheses, several times as fast on a GPU.

    generator = generator_of(model, task, GenerationConfig(beam=4))  # fairseq's own where this one cannot do it
    hypotheses = task.inference_step(generator, [model], sample)

fairseq's is bound by launches of small kernels and by waiting for the device: it finishes hypotheses one by one in
Python. Here a step is a fixed sequence of operations on tensors of fixed shapes that never asks the device for a
value, so on a GPU it is one CUDA graph.

- Nothing that was computed for a beam is moved when beams are reordered. The keys of all beams of a sentence lie side
  by side, and a table of origins says whose key stands in a beam's history at each position; attention hides the rest.
- The queries of a sentence's beams are rows of one matrix, so the keys of its source are there once, not once per beam.
- Which sentences are finished is asked every few steps. They are then dropped, if that makes the others faster.

Shape legend: B sentences, K beams, T positions that there is room for, S rows of the encoder's output, C channels,
H heads, D channels of a head, V words, N candidates (2 K).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
import torch.nn.functional as F
from fairseq.dataclass.configs import GenerationConfig
from fairseq.models.transformer import TransformerDecoder, TransformerDecoderBase
from fairseq.modules import MultiheadAttention
from fairseq.modules.transformer_layer import TransformerDecoderLayer, TransformerDecoderLayerBase
from torch import Tensor, nn

from .models.translation import MemoryDecoder

Hypothesis = dict[str, Tensor]  # tokens, with the final eos; score
OPTIONS = {"beam", "nbest", "lenpen", "max_len_a", "max_len_b", "min_len", "unnormalized"}  # what the search knows
ROOM = 16  # positions: room is made for multiples of so many
ASK_EVERY = 4  # steps from one question which sentences are finished to the next: each waits for the device
WORTHWHILE = {"cpu": 0.9, "cuda": 0.5}  # the part that is left when finished sentences are dropped: a capture costs
BLOCK = 128  # words: about as many blocks as a vocabulary of 32,000 has candidates in those that are looked at
FEW = 128  # rows, which a GPU computes as fast as fewer


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


@dataclass
class State:
    """A batch in the middle of its search. A step changes these tensors in place; `replace` makes one of new shapes."""

    sentences: Tensor  # B: their numbers in the batch
    time: Tensor  # 1: the position that is decoded next
    tokens: Tensor  # B x K x T: what each beam has said up to now, from the beginning-of-sentence symbol on
    origins: Tensor  # B x K x T: the beam whose key it has at each position; -1 where it has none yet
    scores: Tensor  # B x K: summed log-probabilities
    finished: Tensor  # B: finished hypotheses, of which the first K count
    hypotheses: Tensor  # B x (K + 1) x T: their tokens, without the final eos; the last row is for what does not count
    final_scores: Tensor  # B x (K + 1)
    own: list[Tensor]  # of each layer, 2 x B x H x T K x D: keys and values of what was said
    source: list[Tensor]  # of each layer, 2 x B x H x S x D: keys and values of the encoder's output
    padding: Tensor  # B x 1 x 1 x S: -inf at padding of the source, else 0
    runs: int = 0  # steps of these shapes so far


class BeamSearch:
    """fairseq's beam search with one model that is supported (see `supports`). The model must not change meanwhile."""

    def __init__(self, model: Any, dictionary: Any, config: GenerationConfig) -> None:
        self.model, self.decoder, self.beam = model, model.decoder, config.beam
        self.pad, self.eos = dictionary.pad(), dictionary.eos()
        self.max_len_a, self.max_len_b, self.min_len = config.max_len_a, config.max_len_b, config.min_len
        self.layers = [_Layer(layer) for layer in self.decoder.layers]
        self.most = self.decoder.max_positions() - 1
        device = self.decoder.embed_tokens.weight.device
        self.beams = torch.arange(config.beam, device=device)
        self.ranks = torch.arange(2 * config.beam, device=device)
        self.divisors = self.positions = torch.empty(0, device=device)
        self.penalty = 0.0 if config.unnormalized else config.lenpen
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.graph: Any = None  # of the last shapes that were captured

    @torch.no_grad()
    def generate(
        self, models: Sequence[nn.Module], sample: dict[str, Any], prefix_tokens: None = None, constraints: None = None
    ) -> list[list[Hypothesis]]:
        """The K best hypotheses of each sentence of a batch, best first, on the CPU. Arguments as fairseq passes them.

        Raises FloatingPointError where the model's output is not numbers.
        """
        if prefix_tokens is not None or constraints is not None or list(models) != [self.model]:
            raise ValueError("this search knows its one model, no prefix tokens and no constraints")
        if self.stream is None:
            return self._search(sample["net_input"])
        self.stream.wait_stream(torch.cuda.current_stream())  # a graph is not captured on the default stream
        with torch.cuda.stream(self.stream):
            return self._search(sample["net_input"])

    def _search(self, net_input: dict[str, Any]) -> list[list[Hypothesis]]:
        width = net_input["src_tokens"].size(1)
        last = min(int(self.max_len_a * width + self.max_len_b), self.most)
        if self.min_len > last:
            raise ValueError(f"min_len {self.min_len} is more than the longest hypothesis allowed, {last}")
        self._know_positions(last + 1)
        state = self._start(net_input, room=min(last, width + ROOM))
        found: dict[int, list[Hypothesis]] = {}
        for time in range(last + 1):
            if time and time % ASK_EVERY == 0:
                state = self._drop_finished(state, found)
                if not len(state.sentences):
                    break
            if time + 2 > state.tokens.size(-1):
                state = self._make_room(state)
            if time < last:
                self._run(state)
            else:
                self._step(state, last=True)
        found |= self._hypotheses(state, state.finished >= 0)
        return [found[sentence] for sentence in range(len(found))]

    # --- the batch and its shapes

    def _know_positions(self, count: int) -> None:
        """Of each position: its encoding, or zeros, and what the score of a hypothesis ending there is divided by."""
        weight, embed = self.decoder.embed_tokens.weight, self.decoder.embed_positions
        lengths = torch.arange(1, count + 1, dtype=torch.double, device=weight.device)
        self.divisors, self.positions = lengths.pow(self.penalty).float(), weight.new_zeros(count, 1)
        if embed is not None:  # it numbers whatever is not padding
            self.positions = embed(torch.full((1, count), self.eos, device=weight.device)).squeeze(0)

    def _start(self, net_input: dict[str, Any], room: int) -> State:
        out = self.model.encoder.forward_torchscript(net_input)
        if isinstance(self.decoder, MemoryDecoder):
            out = self.decoder.rows_read(out)
        rows, mask = out["encoder_out"][0], out["encoder_padding_mask"][0]  # S x B x C, B x S
        size, beam, room = rows.size(1), self.beam, _rounded(room + 2)
        tokens = torch.full((size, beam, room), self.pad, device=rows.device)
        tokens[..., 0] = self.eos
        origins = torch.full_like(tokens, -1)
        origins[..., 0] = self.beams
        scores = torch.full((size, beam), -math.inf, device=rows.device)
        scores[:, 0] = 0  # all beams begin alike: candidates come from the first alone
        return State(
            sentences=torch.arange(size, device=rows.device),
            time=torch.zeros(1, dtype=torch.long, device=rows.device),
            tokens=tokens,
            origins=origins,
            scores=scores,
            finished=torch.zeros(size, dtype=torch.long, device=rows.device),
            hypotheses=torch.full((size, beam + 1, room), self.pad, device=rows.device),
            final_scores=torch.full((size, beam + 1), -math.inf, device=rows.device),
            own=[rows.new_zeros(2, size, layer.heads, room * beam, layer.width) for layer in self.layers],
            source=[layer.source(rows.transpose(0, 1)) for layer in self.layers],
            padding=rows.new_zeros(mask.shape).masked_fill(mask.bool(), -math.inf)[:, None, None],
        )

    def _make_room(self, state: State) -> State:
        """The same with half as much room again."""
        more = _rounded(state.tokens.size(-1) // 2)
        return replace(
            state,
            tokens=F.pad(state.tokens, (0, more), value=self.pad),
            origins=F.pad(state.origins, (0, more), value=-1),
            hypotheses=F.pad(state.hypotheses, (0, more), value=self.pad),
            own=[F.pad(rows, (0, 0, 0, more * self.beam)) for rows in state.own],
            runs=0,
        )

    def _drop_finished(self, state: State, found: dict[int, list[Hypothesis]]) -> State:
        """The sentences that are not finished, where it is worthwhile; what was found of the others goes to `found`."""
        done = state.finished >= self.beam
        kept = (~done).nonzero().squeeze(-1)
        size, rows = len(done), len(done) * self.beam
        if len(kept) and (len(kept) > WORTHWHILE[done.device.type] * size or (done.is_cuda and rows <= FEW)):
            return state
        found |= self._hypotheses(state, done)
        by_sentence = ("sentences", "tokens", "origins", "scores", "finished", "hypotheses", "final_scores", "padding")
        return replace(
            state,
            **{name: getattr(state, name)[kept] for name in by_sentence},
            own=[rows[:, kept] for rows in state.own],
            source=[rows[:, kept] for rows in state.source],
            runs=0,
        )

    def _hypotheses(self, state: State, of: Tensor) -> dict[int, list[Hypothesis]]:
        """What was found of some sentences (of: B, bool), by their numbers."""
        scores, order = state.final_scores[of, : self.beam].cpu().sort(dim=1, descending=True)
        tokens = state.hypotheses[of].cpu().gather(1, order.unsqueeze(-1).expand(-1, -1, state.hypotheses.size(-1)))
        if not (scores > -math.inf).all():
            raise FloatingPointError("the model's probabilities are not numbers: no translation can be found")
        lengths = tokens.ne(self.pad).sum(dim=-1)  # eos takes the place of the symbol at the beginning
        tokens.scatter_(2, lengths.unsqueeze(-1), self.eos)
        places = torch.arange(tokens.size(-1))
        said = iter(tokens[(places > 0) & (places <= lengths.unsqueeze(-1))].split(lengths.flatten().tolist()))
        beams = [[{"tokens": next(said), "score": score} for score in row.unbind()] for row in scores]
        return dict(zip(state.sentences[of].tolist(), beams, strict=True))

    # --- one step

    def _run(self, state: State) -> None:
        """One step. On a GPU, the first of some shapes runs as it is, which warms up; it is captured for the others."""
        if self.stream is None or not state.runs:
            self._step(state)
        else:
            if state.runs == 1:
                self.graph = self._capture(state)
            self.graph.replay()
        state.runs += 1

    def _capture(self, state: State) -> Any:
        """One step as a CUDA graph. `torch.cuda.graph` would give all free memory back to the GPU each time."""
        graph = torch.cuda.CUDAGraph()
        pool = self.graph.pool() if self.graph else None  # the graph before is not used any more; its memory is
        graph.capture_begin(pool=pool, capture_error_mode="thread_local")
        self._step(state)
        graph.capture_end()
        return graph

    def _step(self, state: State, last: bool = False) -> None:
        """Extend all beams by one word; at the last position that is eos. Nothing in here may wait for the device."""
        beam, room = self.beam, state.tokens.size(-1)
        logits = self._logits(state)
        lprobs = F.log_softmax(logits, dim=-1, dtype=torch.float32)
        # The best of each beam, then of a sentence; by their logits, which in half precision take half the reading.
        if last:
            words = torch.full_like(state.tokens[..., :1], self.eos)
        else:
            logits[..., self.pad].fill_(-math.inf)
            logits[..., self.eos].masked_fill_(state.time < self.min_len, -math.inf)
            words = _best(logits, 2 * beam)
        totals = (state.scores.unsqueeze(-1) + lprobs.gather(-1, words)).flatten(1)
        totals, chosen = totals.masked_fill(totals.isnan(), -math.inf).topk(beam if last else 2 * beam)
        origins = chosen.div(words.size(-1), rounding_mode="floor")  # B x N
        words = words.flatten(1).gather(1, chosen)

        # an eos counts among the K best
        ends = words.eq(self.eos) & totals.ne(-math.inf)
        final = ends[:, :beam]
        places = (state.finished.unsqueeze(1) + final.cumsum(1) - 1).masked_fill(~final, beam).clamp(max=beam)
        whole = (-1, -1, room)
        said = state.tokens.gather(1, origins[:, :beam, None].expand(whole))
        state.hypotheses.scatter_(1, places.unsqueeze(-1).expand(whole), said)
        state.final_scores.scatter_(1, places, totals[:, :beam] / self.divisors.index_select(0, state.time))
        state.finished += final.sum(1)
        if last:
            return

        # the K best that go on
        going = (self.ranks + ends * len(self.ranks)).topk(beam, largest=False).indices
        state.scores.copy_(totals.gather(1, going))
        origins = origins.gather(1, going).unsqueeze(-1)
        state.time += 1
        for history, new in ((state.tokens, words.gather(1, going)), (state.origins, self.beams.expand_as(going))):
            history.copy_(history.gather(1, origins.expand(whole)))
            history.index_copy_(2, state.time, new.unsqueeze(-1))

    def _logits(self, state: State) -> Tensor:
        """B x K x V."""
        decoder = self.decoder
        x = decoder.embed_scale * decoder.embed_tokens(state.tokens.index_select(2, state.time).squeeze(-1))
        if decoder.project_in_dim is not None:
            x = decoder.project_in_dim(x)
        x = x + self.positions.index_select(0, state.time)
        if decoder.layernorm_embedding is not None:
            x = decoder.layernorm_embedding(x)
        hidden = (state.origins.unsqueeze(-1) != self.beams).flatten(2).unsqueeze(1)  # B x 1 x K x T K
        mask = x.new_zeros(hidden.shape).masked_fill_(hidden, -math.inf)
        columns = state.time * self.beam + self.beams
        for layer, own, source in zip(self.layers, state.own, state.source, strict=True):
            x = layer(x, own, columns, mask, source, state.padding)
        if decoder.layer_norm is not None:
            x = decoder.layer_norm(x)
        if decoder.project_out_dim is not None:
            x = decoder.project_out_dim(x)
        return decoder.output_layer(x)


class _Layer:
    """One layer of fairseq's decoder, for one position of all beams."""

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
        queries, *new = self._heads(y, self.own)
        own.index_copy_(3, columns, torch.stack(new))
        x = x + layer.self_attn.out_proj(_attend(queries, own[0], own[1], mask))
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


def _best(logits: Tensor, count: int) -> Tensor:
    """logits ... x V. Returns where the `count` largest of each row are, in any order: ... x count.

    They are in the blocks whose maxima are the largest, or in what is left behind the last whole block. torch's topk
    reads whatever it gets several times; so it gets these blocks alone.
    """
    words = logits.size(-1)
    blocks = words // BLOCK
    if blocks <= count:
        return logits.topk(count, sorted=False).indices
    maxima = logits[..., : blocks * BLOCK].unflatten(-1, (blocks, BLOCK)).amax(dim=-1)
    starts = maxima.topk(count, sorted=False).indices.unsqueeze(-1) * BLOCK
    within = (starts + torch.arange(BLOCK, device=logits.device)).flatten(-2)
    behind = torch.arange(blocks * BLOCK, words, device=logits.device).expand(*logits.shape[:-1], -1)
    places = torch.cat([within, behind], dim=-1)
    return places.gather(-1, logits.gather(-1, places).topk(count, sorted=False).indices)


def _rounded(positions: int) -> int:
    return -(-positions // ROOM) * ROOM
