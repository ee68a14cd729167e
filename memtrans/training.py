"""The training half of a run: fairseq in this process, alone or as one rank of several, until the last update."""

import multiprocessing
import os
import re
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from difflib import get_close_matches

from memtrans.errors import UserError, did_you_mean
from memtrans.files import write_text
from memtrans.ranks import VARIABLES, Ranks
from memtrans.runs import Run, check_device, train_arguments
from memtrans.stops import SIGNALS, STOPPED, Stops

MEETING_SECONDS = 300  # that processes of a run wait for each other at the start
ANOTHER_DIED = (
    r"closed by peer|reset by peer|broken pipe|connection refused|socket|store|timeout|timed out|remote process|nccl"
)


def ready(run: Run) -> bool:
    """Whether there is anything left to train. Raises UserError for what could not work."""
    if (run.folder / "trained").exists():
        return False
    import memtrans_fairseq  # noqa: F401  (must come before fairseq)

    import torch

    check_device(run, torch.cuda.is_available())
    arguments = train_arguments(run)
    check_options(run, arguments)
    write_text(run.folder / "command.txt", shlex.join(["memtrans-fairseq", "train", *arguments]) + "\n")
    if _has_last_update(run):
        write_text(run.folder / "trained", "")
        return False
    return True


def train(run: Run, ranks: Ranks, stops: Stops) -> None:
    """Train, or continue, until the run's last update. Raises UserError for what the user can mend."""
    import memtrans_fairseq.cli
    from memtrans_fairseq.preemption import Stopped, stoppable
    from memtrans_fairseq.sharing import shared_batches

    options = [*train_arguments(run), *_loading_flags(), *rank_flags(ranks)]
    sharing: AbstractContextManager[None] = nullcontext()
    if ranks.several or run.accumulate > 1:
        options += ["--update-freq", str(run.identity["train"]["update_freq"] * run.accumulate)]
        sharing = shared_batches(run.accumulate)
    if not ranks.several:
        for name in VARIABLES:  # fairseq would look for others
            os.environ.pop(name, None)
    try:
        with _failures(ranks, stops), sharing, stoppable(lambda: stops.asked, stops.wait):
            memtrans_fairseq.cli.main(["train", *options])
    except Stopped:
        leave(ranks)
        raise
    finally:
        for helper in multiprocessing.active_children():
            helper.kill()
    if ranks.rank == 0:
        write_text(run.folder / "trained", "")
    leave(ranks)
    stops.resume()


def join(ranks: Ranks, wanted: bool = False) -> bool:
    """Meet the other ranks. Returns whether the first one `wanted` to train."""
    if not ranks.several:
        return wanted
    import torch
    from torch import distributed

    if gpus := torch.cuda.device_count():
        torch.cuda.set_device(ranks.local % gpus)
    try:
        with _ended_by_signals():
            # the time is for meeting alone: what an update may take is torch's own default
            store, rank, count = next(distributed.rendezvous("env://", timeout=timedelta(seconds=MEETING_SECONDS)))
            store.set_timeout(timedelta(minutes=30))
            backend, store = "cpu:gloo,cuda:nccl" if gpus else "gloo", distributed.PrefixStore("memtrans", store)
            distributed.init_process_group(backend, store=store, rank=rank, world_size=count)
    except RuntimeError as error:
        raise UserError(
            f"process {ranks.rank} of {ranks.count}: could not meet the others at {os.environ['MASTER_ADDR']}:"
            f"{os.environ['MASTER_PORT']} ({str(error).splitlines()[0]}); can the nodes reach that name and port? See "
            "CLUSTER.md, Several GPUs"
        ) from error
    said = [wanted]
    distributed.broadcast_object_list(said, src=0)
    if not said[0]:
        leave(ranks)
    return said[0]


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Signals end the process, which waits where Python would not hear them; nothing is lost yet."""
    handlers = {number: signal.signal(number, signal.SIG_DFL) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def leave(ranks: Ranks) -> None:
    """Part from the others. The threads of a group that is left to the end of its process may abort it."""
    if ranks.several:
        from torch import distributed

        distributed.destroy_process_group()


@contextmanager
def _failures(ranks: Ranks, stops: Stops) -> Iterator[None]:
    """Say what goes wrong in training as the user's error, where it is one."""
    from memtrans_fairseq.compat import UnsafeCheckpoint
    from memtrans_fairseq.variants import SettingError

    try:
        yield
    except (SettingError, UnsafeCheckpoint) as error:
        raise UserError(str(error)) from error
    except RuntimeError as error:
        if not (ranks.several and re.search(ANOTHER_DIED, str(error), re.IGNORECASE)):
            raise
        lost = LostRank(
            f"process {ranks.rank} of {ranks.count}: another one has ended, so this one ends too, or the network "
            f"between them fails; the same command continues from the last checkpoint ({str(error).splitlines()[0]})"
        )
        if not stops.asked:
            raise lost from error
        # the signal has gone to that one too, which may not yet have come to where it waits for the update
        print(lost if ranks.rank or ranks.watched else f"error: {lost}", file=sys.stderr)
        sys.exit(STOPPED)


class LostRank(UserError):
    """Another process of the same run has died."""


def check_options(run: Run, arguments: list[str]) -> None:
    """Refuse a key of `model` or `train` that is no option of fairseq for this model. Raises UserError."""
    from fairseq import options

    parser = options.get_training_parser()
    options.parse_args_and_arch(parser, arguments, parse_known=True)  # adds the options of the model and the rest
    known = {flag.removeprefix("--").replace("-", "_") for flag in parser._option_string_actions}
    for group in ("model", "train"):
        for key in run.identity[group]:
            if key not in known | {"precision", "packed", "compile", "cuda_graphs"}:
                arch, near = run.identity["arch"], get_close_matches(key, known)
                hint = did_you_mean(key, near) if near else f"see memtrans-fairseq train --arch {arch} --help"
                raise UserError(f"{group}.{key}: fairseq has no such option for {arch}; {hint}")


def _has_last_update(run: Run) -> bool:
    """Whether a killed run had saved its last update already: fairseq would begin anew with one update too many."""
    last, end = run.checkpoints / "checkpoint_last.pt", run.identity["train"]["max_update"]
    if not end or not last.exists():
        return False
    from memtrans.evaluation import read_checkpoint

    return read_checkpoint(last)["optimizer_history"][-1]["num_updates"] >= end


def _loading_flags() -> list[str]:
    """A process that puts batches together serves a GPU. A CPU gains nothing from it, and waits for it to end.

    (Python now and then collects a data loader after its process, whose end torch then awaits for 5 seconds in vain.)
    """
    import torch

    return ["--num-workers", "1" if torch.cuda.is_available() else "0"]


def rank_flags(ranks: Ranks) -> list[str]:
    """One process is one, also where it sees several GPUs; of several, each has one GPU.

    Gradients are summed after the last part of a batch ("legacy"), which suits models that go back through time.
    """
    flags = ["--distributed-world-size", str(ranks.count)]
    if not ranks.several:
        return flags
    import torch

    gpus = torch.cuda.device_count()
    flags += ["--distributed-rank", str(ranks.rank), "--distributed-init-method", "env://", "--distributed-no-spawn"]
    flags += ["--device-id", str(ranks.local % gpus if gpus else 0), "--ddp-backend", "legacy_ddp"]
    return [*flags, "--distributed-backend", "nccl" if gpus else "gloo"]
