"""What analyses of trained runs share: opening a run, the sentences looked at, and the note of what was looked at."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from memtrans_fairseq.analysis.attention import AttentionMap, captured
from memtrans_fairseq.compat import quiet
from memtrans_fairseq.streaming import StreamDataset, read_stream
from memtrans_fairseq.variants import SettingError

import numpy as np
import torch
from fairseq import utils

from memtrans import evaluation
from memtrans.analysis.arguments import trained_run
from memtrans.analysis.subject import Subject
from memtrans.errors import UserError
from memtrans.files import checksum
from memtrans.jobs import task_of
from memtrans.records import Corpus
from memtrans.runs import Run
from memtrans.worker import commit

BATCH = 32  # sentences at once; changes speed, not numbers
DRAW_SEED = 0


@dataclass(frozen=True)
class Opened:
    """A trained run with its model in eval mode, on the GPU if there is one."""

    run: Run
    model: Any
    task: Any
    checkpoint: Path

    @property
    def streams(self) -> bool:
        """Whether it is a language model, which reads one stream of words."""
        return task_of(self.run.identity["corpus"]) == "language_modeling"

    @property
    def unit(self) -> Literal["sentence", "segment"]:
        return "segment" if self.streams else "sentence"

    @property
    def memory_tokens(self) -> int:
        return self.run.identity["model"].get("memory_tokens") or 0

    def untrained(self) -> Any:
        """The same model with weights as the run's seed starts them."""
        config = evaluation.read_checkpoint(self.checkpoint)["cfg"]
        utils.set_torch_seed(self.run.seed)
        model = self.task.build_model(config.model).eval()
        return model.to(next(self.model.parameters()).device)

    def subject(self, split: str, sentences: int, drawn: str) -> Subject:
        manifest = self.run.manifest()
        choice = self.run.identity["protocol"]["checkpoint"]
        return Subject(
            run=self.run.hash,
            label=self.run.label,
            variant=self.run.identity["variant"],
            seed=self.run.seed,
            corpus=Corpus(
                name=manifest["corpus"],
                fingerprint=manifest["fingerprint"],
                sources={name: source["sha256"] for name, source in manifest["sources"].items()},
            ),
            split=split,
            sentences=sentences,
            unit=self.unit,
            drawn=drawn,
            memory_tokens=self.memory_tokens,
            commit=commit(),
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
            checkpoint=choice,
            checkpoint_sha256=checksum(self.checkpoint)["sha256"],
        )


def open_run(folder: Path, in_half: bool = False) -> Opened:
    """Load a trained run's checkpoint, the one that its protocol chooses. Raises UserError if there is none.

    With `in_half`, in the precision that its job scores it in, else in float32.
    """
    run = trained_run(folder)
    checkpoint = evaluation.checkpoint_of(run.checkpoints, run.identity["protocol"]["checkpoint"])
    model, task = evaluation.load_model(checkpoint, run.data, in_half=in_half and run.job.IN_HALF)
    return Opened(run, model, task, checkpoint)


Pass = tuple[list[int], dict[str, Any], list[AttentionMap]]


def drawn(opened: Opened, split: str, sentences: int) -> list[int]:
    """The numbers of so many sentences, drawn at random."""
    return evaluation.draw(len(opened.task.dataset(split)), sentences, DRAW_SEED)


def sentence_passes(
    opened: Opened, model: Any, split: str, chosen: Sequence[int], shuffled: bool = False
) -> Iterator[Pass]:
    """What the model attends to, batch by batch: the sentences' numbers, the sample, the maps. Raises UserError."""
    with _watched(opened, model) as maps:
        for sample in sentence_batches(opened, split, chosen, shuffled):
            model(**sample["net_input"])
            yield sample["id"].tolist(), sample, list(maps)
            maps.clear()


def segment_passes(opened: Opened, model: Any, text: StreamDataset, segments: int) -> Iterator[Pass]:
    """The same of a language model, for the first segments of a text: the segment's number once for each row."""
    with _watched(opened, model) as maps:
        state, device = None, next(model.parameters()).device
        for number in range(min(len(text), segments)):
            sample = text[number]
            words = sample["net_input"]["src_tokens"].to(device)
            state = model(words, state=state)[1]["state"]
            yield [number] * len(words), sample, list(maps)
            maps.clear()


@contextmanager
def _watched(opened: Opened, model: Any) -> Iterator[list[AttentionMap]]:
    try:
        with quiet(), captured(model) as maps:
            yield maps
    except SettingError as error:
        raise UserError(f"{opened.run.name}: {error}") from error


def sentence_batches(
    opened: Opened, split: str, chosen: Sequence[int], shuffled: bool = False
) -> Iterator[dict[str, Any]]:
    """fairseq's samples of the chosen sentence pairs. `shuffled`: the source's words, but for its end, at random."""
    rng = np.random.default_rng(DRAW_SEED)
    data = opened.task.dataset(split)
    for start in range(0, len(chosen), BATCH):
        items = [data[i] for i in chosen[start : start + BATCH]]
        if shuffled:
            items = [item | {"source": _shuffled(item["source"], rng)} for item in items]
        sample = data.collater(items)
        yield utils.move_to_cuda(sample) if torch.cuda.is_available() else sample


def _shuffled(source: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    order = torch.from_numpy(rng.permutation(len(source) - 1))
    return torch.cat([source[:-1][order], source[-1:]])


def stream_of(opened: Opened, split: str, shuffled: bool = False) -> StreamDataset:
    """A split in the rows and segments that the run's protocol scores it in. `shuffled`: its words at random."""
    tokens, dictionary = read_stream(str(opened.run.data / "bin" / split)), opened.task.target_dictionary
    if shuffled:
        tokens = np.random.default_rng(DRAW_SEED).permutation(tokens)
    protocol = opened.run.identity["protocol"]
    return StreamDataset(tokens, protocol["rows"], protocol["segment"]["target"], dictionary.eos(), dictionary.pad())


def check_split(opened: Opened, split: str) -> None:
    known = opened.run.manifest()["splits"]
    if split not in known:
        raise UserError(f"split={split}: the corpus has no such split; it has {', '.join(known)}")
    if not opened.streams:
        with quiet():
            opened.task.load_dataset(split)
