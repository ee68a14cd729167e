"""From checkpoints to scores: average or choose, load; translate, score with sacreBLEU."""

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from memtrans_fairseq.compat import UnsafeCheckpoint, no_cudnn_attention, quiet
from memtrans_fairseq.search import hypotheses_of

import numpy as np
import torch
from fairseq import checkpoint_utils, utils
from fairseq.dataclass.configs import GenerationConfig
from fairseq.models import FairseqModel
from omegaconf import OmegaConf
from sacrebleu.metrics import BLEU, CHRF

from memtrans.errors import UserError
from memtrans.locks import locked
from memtrans.records import Score
from memtrans.runs import averaged_checkpoints


def checkpoint_of(folder: Path, choice: str) -> Path:
    """The checkpoint of a run's folder that a protocol chooses: best, last, or average N, averaged now if need be."""
    if count := averaged_checkpoints(choice):
        return average_checkpoints(folder, count)
    return folder / f"checkpoint_{choice}.pt"


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except UnsafeCheckpoint as error:
        raise UserError(str(error)) from None


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What fairseq has saved. Raises UserError if it is damaged."""
    with _refusals():
        return checkpoint_utils.load_checkpoint_to_cpu(str(path))


def average_checkpoints(folder: Path, count: int) -> Path:
    """Average the parameters of the last `count` checkpoints into `checkpoint_average_<count>.pt`; returns its path.

    They are those of the ends of epochs, or, where a recipe keeps too few of these, those of every so many updates.
    Raises UserError if there are fewer than that.
    """
    kinds = (r"checkpoint(\d+)\.pt", r"checkpoint_\d+_(\d+)\.pt")
    found = [checkpoint_utils.checkpoint_paths(str(folder), pattern=kind)[:count] for kind in kinds]
    newest = next((paths for paths in found if len(paths) == count), None)
    if newest is None:
        raise UserError(
            f"{folder}: {count} checkpoints are to be averaged, {max(map(len, found))} were saved; train longer, save "
            "more often (train.save_interval_updates) or set protocol.checkpoint=last"
        )
    states = [read_checkpoint(Path(path)) for path in newest]
    # sums in float32: half precision would lose digits
    average = {
        key: sum(state["model"][key].float() for state in states).div(count).to(value)  # type: ignore[union-attr]
        for key, value in states[0]["model"].items()
    }
    config = OmegaConf.to_container(states[0]["cfg"])  # as fairseq writes it
    merged = {key: value for key, value in states[0].items() if key != "last_optimizer_state"}
    merged |= {"cfg": config, "model": average}
    path = folder / f"checkpoint_average_{count}.pt"
    with locked(path.with_suffix(".lock"), str(path)):  # two analyses of a run may begin at once
        checkpoint_utils.torch_persistent_save(merged, str(path))
    return path


def load_model(checkpoint: Path, data: Path, in_half: bool = True) -> tuple[FairseqModel, Any]:
    """A trained model in eval mode, on the GPU if there is one, and its task. The corpus may have moved to `data`.

    With `in_half`, a GPU computes in the precision it was trained in, else in float32.
    """
    if not checkpoint.exists():
        raise UserError(
            f"{checkpoint}: there is no such checkpoint (any more); without it the run must be trained anew"
        )
    no_cudnn_attention()
    with _refusals():
        models, config, task = checkpoint_utils.load_model_ensemble_and_task(
            [str(checkpoint)], {"data": str(data / "bin")}
        )
    model = models[0].eval()
    if torch.cuda.is_available():
        if in_half and (config.common.fp16 or config.common.amp):
            model.half()
        elif in_half and config.common.bf16:
            model.bfloat16()
        model.cuda()
    model.prepare_for_inference_(config)
    return model, task


@quiet()
def translate(model: FairseqModel, task: Any, split: str, protocol: Mapping[str, Any]) -> list[str]:
    """Detokenised translations of a split, in the order of the corpus."""
    task.load_dataset(split)
    data = task.dataset(split)
    positions = utils.resolve_max_positions(task.max_positions(), model.max_positions())
    fitting, _ = data.filter_indices_by_size(np.arange(len(data)), positions)
    longest = max(map(data.num_tokens, fitting), default=0)  # which a batch must have room for
    batches = task.get_batch_iterator(
        dataset=data,
        max_tokens=max(protocol["batch_tokens"], longest),
        max_positions=positions,
        ignore_invalid_inputs=True,
    ).next_epoch_itr(shuffle=False)
    found = decode(model, task, batches, protocol)
    if len(found) < len(data):
        missing = next(i for i in range(len(data)) if i not in found)
        raise UserError(
            f"{split}: sentence {missing + 1} is longer than the model's positions, so the split cannot be scored; "
            "raise +model.max_source_positions"
        )
    return [found[index] for index in range(len(data))]


def decode(
    model: FairseqModel, task: Any, batches: Iterable[dict[str, Any]], protocol: Mapping[str, Any]
) -> dict[int, str]:
    """Detokenised translations of fairseq's batches, by the number of the sentence."""
    search = GenerationConfig(
        beam=protocol["beam"],
        lenpen=protocol["lenpen"],
        max_len_a=protocol["max_len_a"],
        max_len_b=protocol["max_len_b"],
    )
    samples = (utils.move_to_cuda(batch) if torch.cuda.is_available() else batch for batch in batches)
    found: dict[int, str] = {}
    with quiet():
        for sample, hypotheses in hypotheses_of(model, task, search, samples):
            for index, (best, *_) in zip(sample["id"].tolist(), hypotheses, strict=True):
                found[index] = task.target_dictionary.string(best["tokens"].int().cpu(), "sentencepiece")
    return found


def draw(count: int, sentences: int | None, seed: int) -> list[int]:
    """Indices of the scored sentences: all of `count`, or `sentences` of them drawn at random with `seed`, in order."""
    if sentences is None or sentences >= count:
        return list(range(count))
    return sorted(random.Random(seed).sample(range(count), sentences))


def score(hypotheses: Sequence[str], references: Sequence[str], split: str, chosen: Iterable[int]) -> list[Score]:
    """BLEU and chrF of the chosen sentences, with sacreBLEU's signatures. The references are untouched text."""
    indices = list(chosen)
    system, reference = [hypotheses[i] for i in indices], [references[i] for i in indices]
    scores = []
    for metric in (BLEU(), CHRF()):
        value = metric.corpus_score(system, [reference]).score
        scores.append(
            Score(
                metric="bleu" if isinstance(metric, BLEU) else "chrf",
                value=float(value),
                split=split,
                items=len(indices),
                signature=str(metric.get_signature()),
            )
        )
    return scores
