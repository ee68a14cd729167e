"""Stopping a training between two updates with everything saved, so that the next one goes on as if nothing had been.

fairseq's checkpoints hold the place in the epoch, the meters and the state of the optimiser and its schedule; dropout
is drawn from the seed and the number of the update. A training that goes on from one is therefore exactly the same.
"""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from .compat.hooks import replaced
from .compat.ranks import sums_on_the_cpu

Function = Callable[..., Any]
logger = logging.getLogger(__name__)


class Stopped(SystemExit):
    """All ranks end after the same update, with everything saved. Status 75."""

    def __init__(self) -> None:
        super().__init__(os.EX_TEMPFAIL)


@contextmanager
def stoppable(asked: Callable[[], bool], begins: Callable[[], None]) -> Iterator[None]:
    """In this block, `memtrans-fairseq train` raises Stopped after the update in which some rank is `asked` to end.

    It validates and saves as it would have, then saves `checkpoint_last.pt`, wherever in the epoch. (At its end it
    goes on to the first update of the next, if there is one.) `begins` is called where the first update is near.
    """
    from fairseq_cli import train

    def beginning(epoch: Function) -> Function:
        def train_epoch(*args: Any) -> Any:
            begins()
            return epoch(*args)

        return train_epoch

    def stopping(after_update: Function) -> Function:
        def validate_and_save(
            cfg: Any, trainer: Any, task: Any, epoch_itr: Any, subsets: Any, end_of_epoch: bool
        ) -> Any:
            losses, ended = after_update(cfg, trainer, task, epoch_itr, subsets, end_of_epoch)
            if not ended and not end_of_epoch and _any_rank(trainer, asked()):
                train.checkpoint_utils.save_checkpoint(cfg.checkpoint, trainer, epoch_itr, None)
                _any_rank(trainer, True)  # no rank leaves before the first one has saved
                logger.info("stopped after update %d; the same command continues", trainer.get_num_updates())
                raise Stopped
            return losses, ended

        return validate_and_save

    with replaced(train, "train", beginning), replaced(train, "validate_and_save", stopping):
        yield


def _any_rank(trainer: Any, asked: bool) -> bool:
    if trainer.data_parallel_world_size == 1:
        return asked
    from fairseq.distributed import utils

    group = trainer.data_parallel_process_group
    flag = torch.tensor([float(asked)], device="cpu" if sums_on_the_cpu(group) else trainer.device)
    utils.all_reduce(flag, group=group, op="max")
    return bool(flag.item())
