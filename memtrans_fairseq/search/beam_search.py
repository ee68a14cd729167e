"""From batches to hypotheses. Shape legend: see the package."""

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from fairseq.dataclass.configs import GenerationConfig
from torch import Tensor, nn

from ..models.translation import MemoryDecoder
from ..modules.transfers import OnItsWay
from .lanes import Lane, lanes
from .step import State, Step

Sample = dict[str, Any]  # fairseq's, of which "net_input" is read
Hypothesis = dict[str, Tensor]  # tokens, with the final eos; score
Hypotheses = list[list[Hypothesis]]  # of each sentence, the best first

ROOM = 16  # positions: room is made for multiples of so many
ASK_EVERY = 4  # steps from one question which sentences are finished to the next: a search waits for its answer
WORTHWHILE = {"cpu": 0.9, "cuda": 0.5}  # the part that is left when finished sentences are dropped: a capture costs
FEW = 128  # rows, which a GPU computes as fast as fewer


class BeamSearch:
    """fairseq's beam search with one model that is supported (see `supports`). The model must not change meanwhile."""

    def __init__(self, model: Any, dictionary: Any, config: GenerationConfig) -> None:
        model.eval()  # which returns nothing where fairseq has prepared the model for inference
        self.model, self.decoder, self.beam = model, model.decoder, config.beam
        self.pad, self.eos = dictionary.pad(), dictionary.eos()
        self.max_len_a, self.max_len_b, self.min_len = config.max_len_a, config.max_len_b, config.min_len
        self.step = Step(model.decoder, dictionary, config)
        self.device = self.decoder.embed_tokens.weight.device

    def generate(
        self, models: Sequence[nn.Module], sample: Sample, prefix_tokens: None = None, constraints: None = None
    ) -> Hypotheses:
        """Those of one batch. Arguments as fairseq passes them."""
        if prefix_tokens is not None or constraints is not None or list(models) != [self.model]:
            raise ValueError("this search knows its one model, no prefix tokens and no constraints")
        ((_, found),) = self.generate_all([sample])
        return found

    @torch.no_grad()
    def generate_all(self, samples: Iterable[Sample]) -> Iterator[tuple[Sample, Hypotheses]]:
        """Each batch with the K best hypotheses of each of its sentences, on the CPU, as they are found.

        Raises FloatingPointError where the model's output is not numbers.
        """
        to_do, idle = iter(samples), list(lanes(self.device))
        running: deque[tuple[Lane, Sample, Iterator[Hypotheses | None]]] = deque()
        try:
            while True:
                while idle and (sample := next(to_do, None)) is not None:
                    lane = idle.pop()
                    lane.follow()
                    running.append((lane, sample, self._search(sample["net_input"], lane)))
                if not running:
                    return
                lane, sample, search = running[0]
                with torch.cuda.stream(lane.stream):  # a graph is not captured on the default stream
                    hypotheses = next(search)
                if hypotheses is None:
                    running.rotate(-1)
                else:
                    running.popleft()
                    idle.append(lane)
                    yield sample, hypotheses
        finally:
            for lane, _, _ in running:  # if nobody wants the rest
                lane.precede()

    def _search(self, net_input: dict[str, Any], lane: Lane) -> Iterator[Hypotheses | None]:
        """None whenever it is about to wait for the device, so that others can go on; at last what was found."""
        width = net_input["src_tokens"].size(1)
        last = min(int(self.max_len_a * width + self.max_len_b), self.decoder.max_positions() - 1)
        if self.min_len > last:
            raise ValueError(f"min_len {self.min_len} is more than the longest hypothesis allowed, {last}")
        state = self._start(net_input, room=min(last, width + ROOM))
        found: dict[int, list[Hypothesis]] = {}
        for time in range(last + 1):
            if time and time % ASK_EVERY == 0:
                done = OnItsWay(state.finished >= self.beam)
                yield None
                state = self._drop_finished(state, done.arrived(), found)
                if not len(state.sentences):
                    break
            if time + 2 > state.tokens.size(-1):
                state = self._make_room(state)
            if time < last:
                lane.run(self.step, state)
            else:
                self.step(state, last=True)
        if len(state.sentences):
            yield None
            found |= self._hypotheses(state, torch.arange(len(state.sentences)))
        yield [found[sentence] for sentence in range(len(found))]

    def _start(self, net_input: dict[str, Any], room: int) -> State:
        out = self.model.encoder.forward_torchscript(net_input)
        if isinstance(self.decoder, MemoryDecoder):
            out = self.decoder.rows_read(out)
        rows, mask = out["encoder_out"][0], out["encoder_padding_mask"][0]  # S x B x C, B x S
        size, beam, room, layers = rows.size(1), self.beam, _rounded(room + 2), self.step.layers
        tokens = torch.full((size, beam, room), self.pad, device=rows.device)
        tokens[..., 0] = self.eos
        origins = torch.full_like(tokens, -1)
        origins[..., 0] = self.step.beams
        scores = torch.full((size, beam), -math.inf, device=rows.device)
        scores[:, 0] = 0  # all beams begin alike: candidates come from the first alone
        return State(
            sentences=torch.arange(size),
            time=torch.zeros(1, dtype=torch.long, device=rows.device),
            tokens=tokens,
            origins=origins,
            scores=scores,
            finished=torch.zeros(size, dtype=torch.long, device=rows.device),
            hypotheses=torch.full((size, beam + 1, room), self.pad, device=rows.device),
            final_scores=torch.full((size, beam + 1), -math.inf, device=rows.device),
            own=[rows.new_zeros(2, size, layer.heads, room * beam, layer.width) for layer in layers],
            source=[layer.source(rows.transpose(0, 1)) for layer in layers],
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
            graph=None,
        )

    def _drop_finished(self, state: State, done: Tensor, found: dict[int, list[Hypothesis]]) -> State:
        """The sentences that are not done, where it is worthwhile; what was found of the others goes to `found`.

        done: B, bool, on the CPU.
        """
        kept, device = (~done).nonzero().squeeze(-1), state.tokens.device
        size, rows = len(done), len(done) * self.beam
        if len(kept) and (len(kept) > WORTHWHILE[device.type] * size or (device.type == "cuda" and rows <= FEW)):
            return state
        found |= self._hypotheses(state, done.nonzero().squeeze(-1))
        there = kept.to(device)
        by_sentence = ("tokens", "origins", "scores", "finished", "hypotheses", "final_scores", "padding")
        return replace(
            state,
            **{name: getattr(state, name)[there] for name in by_sentence},
            sentences=state.sentences[kept],
            own=[rows[:, there] for rows in state.own],
            source=[rows[:, there] for rows in state.source],
            runs=0,
            graph=None,
        )

    def _hypotheses(self, state: State, of: Tensor) -> dict[int, list[Hypothesis]]:
        """What was found of some sentences (of: their places in the batch, on the CPU), by their numbers.

        In numpy: torch would wake all of the CPU's cores for each of these small operations.
        """
        there = of.to(state.tokens.device)
        scores, tokens = (x[there].cpu().numpy() for x in (state.final_scores, state.hypotheses))
        scores = scores[:, : self.beam]
        if not np.isfinite(scores).all():
            raise FloatingPointError("the model's probabilities are not numbers: no translation can be found")
        order = np.argsort(-scores, axis=1, kind="stable")
        scores, tokens = np.take_along_axis(scores, order, 1), np.take_along_axis(tokens, order[..., None], 1)
        lengths = (tokens != self.pad).sum(axis=-1)  # eos takes the place of the symbol at the beginning
        np.put_along_axis(tokens, lengths[..., None], self.eos, axis=-1)
        places = np.arange(tokens.shape[-1])
        words = torch.from_numpy(tokens[(places > 0) & (places <= lengths[..., None])])
        said = zip(words.split(lengths.flatten().tolist()), torch.from_numpy(scores.flatten()), strict=True)
        found = [{"tokens": tokens, "score": score} for tokens, score in said]
        by_sentence = [found[first : first + self.beam] for first in range(0, len(found), self.beam)]
        return dict(zip(state.sentences[of].tolist(), by_sentence, strict=True))


def _rounded(positions: int) -> int:
    return -(-positions // ROOM) * ROOM
