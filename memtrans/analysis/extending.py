"""A trained run continued, mostly with another number of memory tokens: a run of its own, which names its parent.

Its identity is the parent's with the new number of tokens, the changed training options, and `parent`: whose weights it
starts from. Optimiser, learning rate schedule and data order begin anew, as in fairseq's `--finetune-from-model`.
"""

import copy
import os
from collections.abc import Mapping
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from memtrans.errors import UserError, did_you_mean
from memtrans.records import Record
from memtrans.runs import Run, averaged_checkpoints, check_training

STARTS = ("new", "copies")
PART = 10  # a tenth of the parent's updates, warm-up and peak learning rate, if nothing is said


def extension(parent: Run, record: Record, tokens: int, start: str, changes: list[str]) -> Run:
    """The run that continues `parent` with `tokens` memory tokens. `changes`: overrides such as train.max_update=100.

    As many as it has are the control: what the further training is worth alone. Raises UserError for a parent without
    memory, or an option that it does not have.
    """
    trained = parent.identity["model"].get("memory_tokens") or 0
    if not trained:
        raise UserError(f"{parent.folder}: this model has no memory to extend; give a run with model.memory_tokens")
    if start not in STARTS:
        raise UserError(f"start={start}: expected {' or '.join(STARTS)}")
    identity = copy.deepcopy(parent.identity)
    identity["model"]["memory_tokens"] = tokens
    train = identity["train"]
    # at its own peak rate, so short a training would undo more than it learns
    gentle = {"max_update": max(1, record.updates // PART), "lr": train["lr"] / PART}
    gentle |= {"warmup_updates": train["warmup_updates"] // PART} if train.get("warmup_updates") else {}
    identity["train"] = _changed(train | gentle, changes)
    check_training(identity["train"])
    parent.job.check(identity)
    averaged, updates = averaged_checkpoints(identity["protocol"]["checkpoint"]), identity["train"]["max_update"]
    if averaged and updates and not any(change.startswith("train.save_interval_updates=") for change in changes):
        identity["train"]["save_interval_updates"] = max(1, updates // (2 * averaged))  # those of its second half
    identity["parent"] = {
        "run": parent.hash,
        "setting": parent.setting,
        "memory_tokens": trained,
        "start": start,  # of tokens that the parent lacks
    }
    label = f"{parent.label}, continued with {tokens}"
    return Run(identity, label, parent.data, parent.runs, parent.results, parent.tracking)


def _changed(train: Mapping[str, Any], changes: list[str]) -> dict[str, Any]:
    for change in changes:
        if "=" not in change:
            raise UserError(f"{change}: expected train.key=value")
    try:
        given: Any = OmegaConf.to_container(OmegaConf.from_dotlist(changes))
        merged: Any = OmegaConf.to_container(OmegaConf.merge({"train": dict(train)}, given))
    except (OmegaConfBaseException, YAMLError) as error:
        raise UserError(f"{' '.join(changes)}: expected train.key=value ({' '.join(str(error).split())})") from error
    known = [f"train.{key}" for key in train]
    for key in [*(set(given) - {"train"}), *(f"train.{key}" for key in given.get("train", {}))]:
        if key not in known:
            raise UserError(f"{key}: not a training option of the run; {did_you_mean(key, known)}")
    return merged["train"]


def write_start(parent: Run, run: Run) -> None:
    """Write the checkpoint that `run` starts from: the parent's scored one with the new number of memory vectors.

    The first are the parent's; further ones are copies of these in turn, or new ones as before training.
    """
    if run.start.exists():
        return
    from memtrans_fairseq.analysis.lesions import with_more

    from fairseq import checkpoint_utils
    from omegaconf import DictConfig

    from memtrans import evaluation

    checkpoint = evaluation.checkpoint_of(parent.checkpoints, parent.identity["protocol"]["checkpoint"])
    state = evaluation.read_checkpoint(checkpoint)
    (name,) = (key for key in state["model"] if key.endswith("coder.memory.weight"))
    tokens, start = run.identity["model"]["memory_tokens"], run.identity["parent"]["start"]
    state["model"][name] = with_more(state["model"][name], tokens, start, in_stream=name.startswith("decoder"))
    if isinstance(state["cfg"], DictConfig):
        state["cfg"] = OmegaConf.to_container(state["cfg"])  # as fairseq writes it
    # carried state has the parent's shape
    kept = {key: value for key, value in state.items() if key not in ("last_optimizer_state", "task_state")}
    kept["extra_state"] = {key: value for key, value in state["extra_state"].items() if key != "task_state"}
    run.folder.mkdir(parents=True, exist_ok=True)
    temporary = run.start.with_suffix(".tmp")
    checkpoint_utils.torch_persistent_save(kept, str(temporary))
    os.replace(temporary, run.start)
