"""The task `streaming_language_modeling`: a text in contiguous rows, with state carried from segment to segment.

The state is reset where a stream begins, in every epoch and validation, and nowhere else. It is part of a checkpoint,
so a training that goes on in the middle of an epoch goes on exactly, as far as fairseq's does (in bf16 it does not).
Processes that share a batch (`sharing`) put the states of all rows into it, so their number may change. In fairseq's
own way, with a batch for each, it holds the state of the first. The others come near theirs again by reading earlier
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

from ..streaming import StreamDataset, part_of, read_stream
from ..variants import SettingError


@dataclass
class StreamingOptions(FairseqDataclass):
    data: Optional[str] = field(default=None, metadata={"help": "folder with dict.txt and the binarised splits"})
    tokens_per_sample: int = field(default=150, metadata={"help": "tokens of a segment"})
    train_subset: str = II("dataset.train_subset")
    # fairseq's own language models ask their task for these
    max_target_positions: Optional[int] = field(default=None, metadata={"help": "max number of tokens in a segment"})
    add_bos_token: bool = field(default=False, metadata={"help": "not for streams: must be false"})


@register_task("streaming_language_modeling", dataclass=StreamingOptions)
class StreamingLanguageModelingTask(FairseqTask):
    shares_rows = False  # whether `--batch-size` counts the rows of all processes together: see `sharing`

    def __init__(self, cfg: StreamingOptions, dictionary: Dictionary) -> None:
        super().__init__(cfg)
        self.dictionary = dictionary
        self.carried: dict[str, dict[str, Any]] = {}  # in training and in validation: the state, and what it is of

    @classmethod
    def setup_task(cls, cfg: Any, **kwargs: Any) -> "StreamingLanguageModelingTask":
        if cfg.tokens_per_sample < 1:
            raise SettingError(f"--tokens-per-sample {cfg.tokens_per_sample}: expected at least 1")
        if cfg.add_bos_token:
            raise SettingError("--add-bos-token: a stream is one text, whose segments have no beginning")
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
        disable_iterator_cache: bool = False,
        update_epoch_batch_itr: bool | None = None,
        **_: Any,
    ) -> iterators.EpochBatchIterator:
        """`max_sentences` is the number of rows of each shard, or of all. Order is the text's: nothing is shuffled.

        Who asks again gets the same iterator, as in fairseq's own tasks, but a validation on the text of the training,
        which must not move on the training's. (fairseq's trainer says `update_epoch_batch_itr` in training alone.)
        """
        wanted = (dataset, max_sentences, num_shards, shard_id, num_workers, update_epoch_batch_itr)
        if not (disable_iterator_cache or update_epoch_batch_itr) and wanted in self.dataset_to_epoch_iter:
            return self.dataset_to_epoch_iter[wanted]
        if not max_sentences:
            raise SettingError("how many rows are read side by side? Set --batch-size, not --max-tokens")
        if self.shares_rows and num_shards > max_sentences:
            raise SettingError(f"{num_shards} processes share {max_sentences} rows: give each at least one")
        rows = dataset.cut(max_sentences, *((0, 1) if self.shares_rows else (shard_id, num_shards)))
        count = max_sentences * rows.shards
        if rows.row_length < 1 or len(rows.tokens) < count:
            raise SettingError(
                f"{count} rows of a text of {len(rows.tokens)} tokens: lower --batch-size, or, if "
                "it is a text to validate on, --batch-size-valid"
            )
        rows = rows.part(shard_id, num_shards) if self.shares_rows else rows
        iterator = iterators.EpochBatchIterator(
            dataset=rows,
            collate_fn=rows.collater,
            batch_sampler=[[segment] for segment in range(len(rows))],
            num_workers=num_workers,
            epoch=epoch,
            buffer_size=data_buffer_size,
            disable_shuffling=True,
            reuse_dataloader=True,
        )
        if not disable_iterator_cache:
            self.dataset_to_epoch_iter[wanted] = iterator
        return iterator

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
        if kept and "before" in kept and kept["of"] == (segment, *rows):  # once more: an update overflowed
            return kept["before"]
        if kept and kept.get("loaded"):  # the rows of all processes that share them
            kept["state"] = _each(lambda rows: rows[part_of(len(rows), *sample["part"])], kept["state"])
        if kept and kept["of"] == (segment - 1, *rows):
            return move_to(_usable(kept), device)
        if stage == "train" and segment and getattr(model, "carries", False):
            return self._read_again(model, sample, device)
        return None

    def _read_again(self, model: Any, sample: dict[str, Any], device: torch.device) -> Any:
        """The state before a segment in the middle of the training text, without learning from what is read."""
        segment, *rows, _ = sample["place"]
        data = self.datasets[self.cfg.train_subset].cut(*rows).part(*sample["part"])
        model.eval()  # a step in training goes back to training by itself
        state = None
        with torch.no_grad():
            for earlier in range(max(0, segment - model.segments_of_state(data.length)), segment):
                source = data[earlier]["net_input"]["src_tokens"].to(device)
                state = model(source, state=state)[1]["state"]
        return state

    def gather(self) -> None:
        """Before the first process saves a checkpoint, bring together the states of the rows of all that share them."""
        kept = self.carried.get("train")
        if not self.shares_rows or kept is None:
            return
        first, ranks = torch.distributed.get_rank() == 0, torch.distributed.get_world_size()
        states: list[Any] | None = [None] * ranks if first else None
        torch.distributed.gather_object(move_to(_usable(kept), torch.device("cpu")), states)
        if states:
            none = any(state is None for state in states)
            kept["whole"] = None if none else _each(lambda *parts: torch.cat(parts), *states)

    def state_dict(self) -> dict[str, Any]:
        kept = self.carried.get("train")
        if not kept:
            return {"carried": None}
        return {"carried": {"of": kept["of"], "state": kept["whole"] if "whole" in kept else _usable(kept)}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if state_dict.get("carried"):
            self.carried["train"] = {key: state_dict["carried"][key] for key in ("of", "state")} | {"loaded": True}

    def eval_lm_dataloader(self, *_: Any, **__: Any) -> Any:
        raise SettingError("eval-lm knows no streams: use validate, or the harness' scripts.evaluate")


def _usable(kept: dict[str, Any]) -> Any:
    """The state after a step. One that overflowed is skipped, and what it left is worth nothing: then, that before."""
    if kept["state"] is None or "loss" not in kept:  # without asking the device
        return kept["state"]
    return kept["state"] if kept["loss"].isfinite().all() else kept["before"]


def move_to(state: Any, device: torch.device) -> Any:
    """Nested containers with their tensors on `device`."""
    return _each(lambda tensor: tensor.to(device), state)


def _each(function: Callable[..., torch.Tensor], *states: Any) -> Any:
    """Nested containers with what a function makes of their tensors, which all have a row of the batch in each row."""
    return tree_map(lambda *leaves: function(*leaves) if isinstance(leaves[0], torch.Tensor) else leaves[0], *states)
