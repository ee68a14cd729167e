"""Several processes share every batch, so that the same options mean the same training on 1, 4 or 8 GPUs.

fairseq gives each process batches of its own: with N processes, N times as much is learned from in an update. Here
`--max-tokens`, `--batch-size` and `--update-freq` say what all processes together learn from. Of a batch that one
process would have made, rank r of N takes the rows r, r + N, r + 2N and so on; of a stream, a part of its rows. Losses
and gradients are those of one process, but for the order of sums; each rank draws its own dropout.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from fairseq import checkpoint_utils, utils
from fairseq.tasks import FairseqTask
from fairseq.trainer import Trainer

from .compat.hooks import replaced
from .packing.batches import PackedPairs
from .tasks.streaming import StreamingLanguageModelingTask
from .variants import SettingError

Function = Callable[..., Any]
RANKS_APART = 2**32  # between the seeds of two ranks, which both count the updates from there


@contextmanager
def shared_batches(accumulate: int = 1) -> Iterator[None]:
    """In this block, the processes of a training share its batches.

    Each takes its share in `accumulate` parts, for GPUs with little memory; `--update-freq` is then to be that many
    times as large. The rows of a stream carry state and are not taken in parts: SettingError.
    """
    with (
        replaced(Trainer, "get_train_iterator", lambda original: _sharing(original, accumulate)),
        replaced(Trainer, "_set_seed", _seeding),
        replaced(FairseqTask, "train_step", _passing_over),
        replaced(checkpoint_utils, "save_checkpoint", _gathering),
    ):
        StreamingLanguageModelingTask.shares_rows = True
        try:
            yield
        finally:
            StreamingLanguageModelingTask.shares_rows = False


def _sharing(original: Function, accumulate: int) -> Function:
    """Batches are made and shuffled as for one process, and each rank takes its part of all."""

    def get_train_iterator(self: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(self.task, StreamingLanguageModelingTask):
            if accumulate > 1:
                raise SettingError(f"accumulate={accumulate}: a language model's rows cannot be taken in parts")
            return original(self, *args, **kwargs)
        iterator = original(self, *args, **kwargs, shard_batch_itr=False)
        if not hasattr(iterator, "shared"):  # a later epoch gets the same one
            _share(iterator, self.data_parallel_rank, self.data_parallel_world_size, accumulate)
        return iterator

    return get_train_iterator


def _share(iterator: Any, rank: int, ranks: int, accumulate: int) -> None:
    """Make an iterator over batches give one over a rank's parts of them. Its saved place counts whole batches."""
    batches, collate = iterator.ordered_batches, iterator.collate_fn
    place, go_to = iterator.state_dict, iterator.load_state_dict
    some_row = iterator.frozen_batches[0][0]
    if isinstance(iterator.dataset, PackedPairs):
        iterator.dataset.share(ranks * accumulate)

    def ordered_batches(*args: Any) -> list[Sequence[int]]:
        return [part for batch in batches(*args) for part in parts(batch, rank, ranks, accumulate)]

    def collate_fn(samples: list[Any]) -> dict[str, Any]:
        return collate(samples) if samples else collate([iterator.dataset[some_row]]) | {"passed_over": True}

    def state_dict() -> dict[str, Any]:
        state = place()
        return state | {"iterations_in_epoch": state["iterations_in_epoch"] // accumulate}

    def load_state_dict(state: dict[str, Any]) -> None:
        go_to(state | {"iterations_in_epoch": state["iterations_in_epoch"] * accumulate})

    iterator.ordered_batches, iterator.collate_fn = ordered_batches, collate_fn
    iterator.state_dict, iterator.load_state_dict = state_dict, load_state_dict
    iterator.shared = True


def parts(batch: Sequence[int], rank: int, ranks: int, accumulate: int) -> list[Sequence[int]]:
    """The rows of a batch that are a rank's, in `accumulate` parts, of which some may be empty."""
    return [batch[rank + ranks * number :: ranks * accumulate] for number in range(accumulate)]


def _passing_over(original: Function) -> Function:
    """Where a part is empty, the rank goes through a step with some row, which counts for nothing.

    (fairseq's own way with empty batches forgets what the rank has counted before in the same update.)
    """

    def train_step(
        self: Any, sample: Any, model: Any, criterion: Any, optimizer: Any, update_num: int, ignore_grad: bool = False
    ) -> Any:
        empty = sample.get("passed_over", False)
        loss, size, log = original(self, sample, model, criterion, optimizer, update_num, ignore_grad or empty)
        return (loss, size * 0, {key: value * 0 for key, value in log.items()}) if empty else (loss, size, log)

    return train_step


def _seeding(original: Function) -> Function:
    """fairseq seeds dropout alike on all ranks, which would then drop the same of different rows."""

    def _set_seed(self: Any) -> None:
        original(self)
        if self.data_parallel_rank:
            utils.set_torch_seed(self.cfg.common.seed + self.get_num_updates() + RANKS_APART * self.data_parallel_rank)

    return _set_seed


def _gathering(original: Function) -> Function:
    """Before a checkpoint is saved, the first rank gets what the task keeps on the others."""

    def save_checkpoint(cfg: Any, trainer: Any, *args: Any) -> None:
        if isinstance(trainer.task, StreamingLanguageModelingTask):
            trainer.task.gather()
        original(cfg, trainer, *args)

    return save_checkpoint
