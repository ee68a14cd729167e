"""Cures of what fairseq writes into checkpoints, how it reads them, and what a continued training takes from them."""

import contextlib
import functools
import os
import re
import shutil
from argparse import Namespace
from collections.abc import Callable
from typing import Any


class UnsafeCheckpoint(ValueError):
    """A checkpoint file that is damaged, or holds more than data. The message is one line."""


@functools.cache
def checkpoint_types() -> tuple[Any, ...]:
    """The types in fairseq's checkpoints besides tensors and plain containers, which torch allows by itself.

    `Namespace`: the model options of an `--arch` without a dataclass (`cfg`), and all options of old checkpoints
    (`args`). numpy: counts and scores that a task logs, as with `--eval-bleu`; numpy 1 named their module differently.
    Meters: up to fairseq 0.9 they were stored as objects.
    """
    import numpy
    from fairseq.logging import meters

    arrays = (numpy._core.multiarray._reconstruct, numpy._core.multiarray.scalar)  # type: ignore[attr-defined]
    old_arrays = [(function, f"numpy.core.multiarray.{function.__name__}") for function in arrays]
    dtypes = (type(numpy.dtype(kind)) for kind in (bool, "int32", "int64", "float32", "float64"))
    old_meters = [
        (meter, f"fairseq.meters.{meter.__name__}")
        for meter in (meters.AverageMeter, meters.TimeMeter, meters.StopwatchMeter)
    ]
    return Namespace, *arrays, *old_arrays, numpy.ndarray, numpy.dtype, *dtypes, *old_meters


@functools.cache
def safe_checkpoints() -> None:
    """Symptom: "Weights only load failed" for any checkpoint of fairseq.

    Since torch 2.6, which loads tensors and plain data only. Scope: fairseq's two checkpoint loaders allow, while they
    run, the types above and nothing else: a file that would run code is refused with `UnsafeCheckpoint`. So is one that
    is damaged, which torch and fairseq tell in a dozen ways.
    """
    import torch
    from fairseq import checkpoint_utils

    def safe(load: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(load)
        def loaded(path: str, *args: Any, **kwargs: Any) -> Any:
            try:
                with torch.serialization.safe_globals(list(checkpoint_types())):
                    return load(path, *args, **kwargs)
            except MemoryError:
                raise
            except Exception as error:
                if isinstance(error, OSError) and error.filename:  # it cannot be opened
                    raise
                raise UnsafeCheckpoint(_refusal(path, error)) from error

        return loaded

    checkpoint_utils.load_checkpoint_to_cpu = safe(checkpoint_utils.load_checkpoint_to_cpu)
    checkpoint_utils.load_ema_from_checkpoint = safe(checkpoint_utils.load_ema_from_checkpoint)


def _refusal(path: str, error: Exception) -> str:
    found = re.search(r"unsupported (?:global: )?GLOBAL (\S+)", str(error), re.IGNORECASE)
    if found:
        what = f"it holds {found[1]}, which could run code; use one that fairseq itself has written"
    else:
        what = f"it is damaged, or holds more than data ({type(error).__name__}); use an earlier one, or train anew"
    return f"checkpoint {path} is refused: {what}"


@functools.cache
def whole_checkpoint_copies() -> None:
    """Symptom: a process killed while it saves leaves half a `checkpoint_last.pt`, from which nothing can resume.

    In fairseq 0.12.2: the first file of a save appears by renaming, but `checkpoint_best.pt` and `checkpoint_last.pt`
    are then copied over the old ones. Scope: these copies. They become hard links (or copies, where the file system has
    none), also put in place by renaming: whole at any moment, and at no cost in disk or time.
    """
    from fairseq import checkpoint_utils

    class WholeCopies(checkpoint_utils.PathManager):
        @staticmethod
        def copy(src_path: str, dst_path: str, overwrite: bool = False) -> bool:
            temporary = f"{dst_path}.link"  # fairseq writes new checkpoints to ".tmp" names
            if os.path.lexists(temporary):
                os.remove(temporary)
            try:
                os.link(src_path, temporary)
            except OSError:
                shutil.copyfile(src_path, temporary)
            os.replace(temporary, dst_path)
            return True

    checkpoint_utils.PathManager = WholeCopies


@functools.cache
def full_disks_are_named() -> None:
    """Symptom: where a disk or a quota is full, saving ends in "[enforce fail at inline_container.cc] unexpected pos".

    In fairseq 0.12.2 with any torch: it writes three times into the same file, logs that, raises it or an error without
    a file's name, and leaves what it wrote. A network file system may tell of a full disk only after the file has been
    renamed. Scope: fairseq's saving. The system's own error is raised, an OSError with the file's name, nothing is left
    behind, and the checkpoint of before stays as it was.
    """
    import torch
    from fairseq import checkpoint_utils

    @functools.wraps(checkpoint_utils.torch_persistent_save)
    def save(obj: Any, filename: str, async_write: bool = False) -> None:
        temporary = f"{filename}.tmp"
        try:
            with open(temporary, "wb") as file:
                torch.save(obj, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, filename)
        except (OSError, RuntimeError) as error:
            with contextlib.suppress(OSError):
                os.remove(temporary)
            cause = error if isinstance(error, OSError) else error.__context__
            if isinstance(cause, OSError):
                raise OSError(cause.errno, cause.strerror, filename) from None
            raise

    checkpoint_utils.torch_persistent_save = save


@functools.cache
def counts_go_on() -> None:
    """Symptom: the checkpoints of a continued training count only some of its updates, tokens and seconds.

    In fairseq 0.12.2: the meters of the whole training are not loaded from a checkpoint made at the end of an epoch;
    from others they are, but into a new object, while what is logged still goes to the old one. Scope: the meters
    named "default", which see all that is logged, when a trainer loads a checkpoint.
    """
    from fairseq.logging import meters, metrics
    from fairseq.trainer import Trainer

    original = Trainer.load_checkpoint

    @functools.wraps(original)
    def load_checkpoint(self: Any, *args: Any, reset_meters: bool = False, **kwargs: Any) -> Any:
        extra_state = original(self, *args, reset_meters=reset_meters, **kwargs)
        if extra_state and "metrics" in extra_state and not reset_meters:
            whole = metrics._active_aggregators["default"]
            whole.load_state_dict(extra_state["metrics"]["default"])
            for meter in whole.values():
                if isinstance(meter, meters.TimeMeter):  # rates since the start of this process
                    meter.reset()
            metrics._aggregators["default"] = whole
        return extra_state

    Trainer.load_checkpoint = load_checkpoint


@functools.cache
def task_state_comes_back() -> None:
    """Symptom: what a task keeps for a continued training is saved with every checkpoint, but never given back to it.

    In fairseq 0.12.2, whose trainer writes "task_state" and reads it nowhere. Scope: trainers put the task's state into
    their own `extra_state` too, which every rank gets when a checkpoint is loaded, and hand it on to the task.
    """
    from fairseq import utils
    from fairseq.trainer import Trainer

    original_state_dict, original_load = Trainer.state_dict, Trainer.load_checkpoint

    @functools.wraps(original_state_dict)
    def state_dict(self: Any) -> dict[str, Any]:
        state = original_state_dict(self)
        # on the CPU already here, so that both names are of the same tensors, which are written once
        state["task_state"] = state["extra_state"]["task_state"] = utils.move_to_cpu(state["task_state"])
        return state

    @functools.wraps(original_load)
    def load_checkpoint(self: Any, *args: Any, **kwargs: Any) -> Any:
        extra_state = original_load(self, *args, **kwargs)
        if extra_state and "task_state" in extra_state:
            self.task.load_state_dict(extra_state["task_state"])
        return extra_state

    Trainer.state_dict, Trainer.load_checkpoint = state_dict, load_checkpoint


SCALE = ("loss_scale", "_iter", "_last_overflow_iter", "_last_rescale_iter", "_overflows_since_rescale")


@functools.cache
def mixed_precision_comes_back() -> None:
    """Symptom: a training with `--fp16`, `--bf16` or `--amp` that goes on from a checkpoint is another one.

    In fairseq 0.12.2 with any torch: of the weights only their rounded copy is saved, and of what decides the loss
    scale at most the scale itself. Scope: the states of fairseq's mixed-precision optimisers, and how they are loaded.
    Settings of the scale stay those of the command. Full-precision weights are taken where they are those of the
    rounded ones: not of earlier checkpoints, which have none, nor of ones whose weights were changed afterwards.
    """
    import torch
    from fairseq.optim.amp_optimizer import AMPOptimizer
    from fairseq.optim.fp16_optimizer import FP16Optimizer, MemoryEfficientFP16Optimizer

    def exact_weights(self: Any) -> list[Any]:
        weights = getattr(self, "fp32_params", ())  # of the memory-efficient one there are no other weights
        return list(weights.values() if isinstance(weights, dict) else weights)

    def cure(optimizer: Any) -> None:
        original_state, original_load = optimizer.state_dict, optimizer.load_state_dict

        def state_dict(self: Any) -> dict[str, Any]:
            state = original_state(self)
            state["fp32_params"] = [weight.detach() for weight in exact_weights(self)]
            if self.scaler is not None:
                state["scaler"] = {name: getattr(self.scaler, name) for name in SCALE}
            return state

        def load_state_dict(self: Any, state: dict[str, Any], optimizer_overrides: Any = None) -> None:
            state = dict(state)
            weights, scaler = state.pop("fp32_params", ()), state.pop("scaler", {})
            original_load(self, state, optimizer_overrides)
            if self.scaler is not None:
                vars(self.scaler).update(scaler)
            for weight, saved in zip(exact_weights(self), weights, strict=False):
                saved, half = saved.to(weight.device), self.fp16_params[0].dtype
                # what stands there fairseq has made from the rounded ones
                if saved.shape == weight.shape and torch.equal(saved.to(half), weight.to(half)):
                    weight.data.copy_(saved)

        optimizer.state_dict, optimizer.load_state_dict = state_dict, load_state_dict

    cure(FP16Optimizer)
    cure(MemoryEfficientFP16Optimizer)

    original_amp_state, original_amp_load = AMPOptimizer.state_dict, AMPOptimizer.load_state_dict

    def amp_state_dict(self: Any) -> dict[str, Any]:
        return original_amp_state(self) | {"scaler": self.scaler.state_dict()}

    def amp_load_state_dict(self: Any, state: dict[str, Any], optimizer_overrides: Any = None) -> None:
        state = dict(state)
        scaler, own = state.pop("scaler", None), self.scaler.state_dict()
        if scaler and own:  # either may be of a training without a GPU, whose scaler does nothing
            self.scaler.load_state_dict(own | {name: scaler[name] for name in ("scale", "_growth_tracker")})
        original_amp_load(self, state, optimizer_overrides)

    AMPOptimizer.state_dict, AMPOptimizer.load_state_dict = amp_state_dict, amp_load_state_dict
