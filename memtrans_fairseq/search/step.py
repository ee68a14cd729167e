"""One step of a search: all beams of all sentences are extended by one word. Shape legend: see the package."""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from fairseq.dataclass.configs import GenerationConfig
from torch import Tensor

from .layers import Layer

BLOCK = 128  # words: about as many blocks as a vocabulary of 32,000 has candidates in those that are looked at


@dataclass
class State:
    """A batch in the middle of its search. A step changes these tensors in place; `replace` makes one of new shapes."""

    sentences: Tensor  # B: their numbers in the batch; on the CPU
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
    graph: Any = None  # such a step as a CUDA graph


class Step:
    """The operations of a step are the same at every position but the last, and none waits for the device."""

    def __init__(self, decoder: Any, dictionary: Any, config: GenerationConfig) -> None:
        self.decoder, self.beam = decoder, config.beam
        self.pad, self.eos, self.min_len = dictionary.pad(), dictionary.eos(), config.min_len
        self.layers = [Layer(layer) for layer in decoder.layers]
        weight, embed, count = decoder.embed_tokens.weight, decoder.embed_positions, decoder.max_positions()
        self.beams = torch.arange(self.beam, device=weight.device)
        self.ranks = torch.arange(2 * self.beam, device=weight.device)
        # of each position: what the score of a hypothesis that ends there is divided by; its encoding, or a zero
        lengths = torch.arange(1, count + 1, dtype=torch.double, device=weight.device)
        self.divisors = lengths.pow(0.0 if config.unnormalized else config.lenpen).float()
        self.positions = weight.new_zeros(count, 1)
        if embed is not None:  # it numbers whatever is not padding
            self.positions = embed(torch.full((1, count), self.eos, device=weight.device)).squeeze(0).detach()

    def __call__(self, state: State, last: bool = False) -> None:
        """Change `state` in place; `last`: the word is eos."""
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
