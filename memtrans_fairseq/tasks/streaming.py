"""The task `streaming_language_modeling`: a text in contiguous rows, with state carried from segment to segment.

The state is reset where a stream begins, in every epoch and validation, and nowhere else. It is part of a checkpoint,
so a training that goes on in the middle of an epoch goes on exactly, as far as fairseq's does (in bf16 it does not).
With several GPUs the checkpoint holds the state of the first. The others come near theirs again by reading earlier
segments once more without learning: as many as the cache reaches back through all layers, ten for carried memory.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Optional

import torch
from fairseq.data import Dictionary, iterators
from fairseq.dataclass import FairseqDataclass
from fairseq.tasks import FairseqTask, register_task
from omegaconf import II
from torch.utils._pytree import tree_map

from ..streaming import StreamDataset, read_stream
from ..variants import SettingError


@dataclass
class StreamingOptions(FairseqDataclass):
    data: Optional[str] = field(default=None, metadata={"help": "folder with dict.txt and the binarised splits"})
    tokens_per_sample: int = field(default=150, metadata={"help": "tokens of a segment"})
    train_subset: str = II("dataset.train_subset")
    # fairseq's own language models ask their task for these
    max_target_positions: Optional[int] = field(default=None, metadata={"help": "max number of tokens in a segment"})
    add_bos_token: bool = field(default=False, metadata={"help": "prepend beginning of sentence token (<s>)"})


@register_task("streaming_language_modeling", dataclass=StreamingOptions)
class StreamingLanguageModelingTask(FairseqTask):
    def __init__(self, cfg: StreamingOptions, dictionary: Dictionary) -> None:
        super().__init__(cfg)
        self.dictionary = dictionary
        self.carried: dict[str, dict[str, Any]] = {}  # in training and in validation: the state, and what it is of

    @classmethod
    def setup_task(cls, cfg: Any, **kwargs: Any) -> "StreamingLanguageModelingTask":
        if cfg.tokens_per_sample < 1:
            raise SettingError(f"--tokens-per-sample {cfg.tokens_per_sample}: expected at least 1")
        words = Path(cfg.data) / "dict.txt"
        if not words.exists():
            raise SettingError(f"no dictionary {words}: the data is a folder with dict.txt and binarised splits")
        return cls(cfg, Dictionary.load(str(words)))

    source_dictionary = target_dictionary = property(lambda self: self.dictionary)

    def max_positions(self) -> int:
        return self.cfg.tokens_per_sample

    def load_dataset(self, split: str, combine: bool = False, **kwargs: Any) -> None:
        tokens = read_stream(str(Path(self.cfg.data) / split))
        dictionary = self.dictionary
        self.datasets[split] = StreamDataset(tokens, 1, self.cfg.tokens_per_sample, dictionary.eos(), dictionary.pad())

    def get_batch_iterator(
        self,
        dataset: StreamDataset,
        max_sentences: int | None = None,
        num_shards: int = 1,
        shard_id: int = 0,
        num_workers: int = 0,
        epoch: int = 1,
        data_buffer_size: int = 0,
        **_: Any,
    ) -> iterators.EpochBatchIterator:
        """`max_sentences` is the number of rows of each shard. Order is the text's: nothing is shuffled."""
        if not max_sentences:
            raise SettingError("how many rows are read side by side? Set --batch-size, not --max-tokens")
        rows = dataset.cut(max_sentences, shard_id, num_shards)
        if rows.row_length < 1 or len(rows.tokens) < max_sentences * num_shards:
            raise SettingError(
                f"{max_sentences * num_shards} rows of a text of {len(rows.tokens)} tokens: lower --batch-size, or, if "
                "it is a text to validate on, --batch-size-valid"
            )
        return iterators.EpochBatchIterator(
            dataset=rows,
            collate_fn=rows.collater,
            batch_sampler=[[segment] for segment in range(len(rows))],
            num_workers=num_workers,
            epoch=epoch,
            buffer_size=data_buffer_size,
            disable_shuffling=True,
        )

    def train_step(
        self, sample: dict[str, Any], model: Any, *others: Any, **options: Any
    ) -> tuple[Any, int, dict[str, Any]]:
        return self._carrying("train", sample, model, partial(super().train_step, sample, model, *others, **options))

    def valid_step(self, sample: dict[str, Any], model: Any, criterion: Any) -> tuple[Any, int, dict[str, Any]]:
        return self._carrying("valid", sample, model, partial(super().valid_step, sample, model, criterion))

    def _carrying(self, stage: str, sample: dict[str, Any], model: Any, step: Callable[[], Any]) -> Any:
        """Hand the model the state of the segment before, make a step, and keep the state that it leaves."""
        sample["state"] = before = self._state_before(stage, sample, model)
        result = step()
        if "next_state" not in sample and getattr(model, "carries", False):
            raise SettingError("this model carries state, and the criterion drops it: use --criterion streaming_nll")
        after = sample.pop("next_state", None)
        self.carried[stage] = {"of": sample["place"], "before": before, "state": after, "loss": result[0].detach()}
        return result

    def _state_before(self, stage: str, sample: dict[str, Any], model: Any) -> Any:
        (segment, *rows), device = sample["place"], sample["target"].device
        kept = self.carried.pop(stage, None)
        if kept and kept["of"] == (segment, *rows):  # once more: in half precision, after an overflow
            return kept["before"]
        if kept and kept["of"] == (segment - 1, *rows):
            # a step that overflowed is skipped, and what it left is worth nothing
            usable = bool(kept["loss"].isfinite().all()) or kept.get("before") is None
            return move_to(kept["state"] if usable else kept["before"], device)
        if stage == "train" and segment and getattr(model, "carries", False):
            return self._read_again(model, sample["place"], device)
        return None

    def _read_again(self, model: Any, place: tuple[int, ...], device: torch.device) -> Any:
        """The state before a segment in the middle of the training text, without learning from what is read."""
        segment, *rows, _ = place
        data = self.datasets[self.cfg.train_subset].cut(*rows)
        model.eval()  # a step in training goes back to training by itself
        state = None
        with torch.no_grad():
            for earlier in range(max(0, segment - model.segments_of_state(data.length)), segment):
                source = data[earlier]["net_input"]["src_tokens"].to(device)
                state = model(source, state=state)[1]["state"]
        return state

    def state_dict(self) -> dict[str, Any]:
        kept = self.carried.get("train")
        return {"carried": kept and {key: kept[key] for key in ("of", "state", "loss")}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if state_dict.get("carried"):
            self.carried["train"] = state_dict["carried"]

    def eval_lm_dataloader(self, *_: Any, **__: Any) -> Any:
        raise SettingError("eval-lm knows no streams: use validate, or the harness' scripts.evaluate")


def move_to(state: Any, device: torch.device) -> Any:
    """Nested containers with their tensors on `device`."""
    return tree_map(lambda leaf: leaf.to(device) if isinstance(leaf, torch.Tensor) else leaf, state)
