"""From checkpoints to scores: which checkpoint, averaging, the draw of sentences, and sacreBLEU's own numbers."""

import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import memtrans_fairseq  # noqa: F401  (must come before fairseq)

import numpy as np
import pytest
import torch
from fairseq import checkpoint_utils

from memtrans.errors import UserError
from memtrans.evaluation import average_checkpoints, checkpoint_of, draw, load_model, read_checkpoint, score


def save(path: Path, seed: int, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """A checkpoint as fairseq writes it, with random parameters, which are returned."""
    generator = torch.Generator().manual_seed(seed)
    model = {"weight": torch.randn(3, 4, generator=generator).to(dtype), "bias": torch.randn(4, generator=generator)}
    state: dict[str, Any] = {
        "args": None,
        "cfg": {"model": {"_name": "transformer"}, "task": {"_name": "translation"}},
        "model": {**model, "version": torch.tensor([3.0])},
        "optimizer_history": [{"num_updates": seed, "optimizer_name": "Adam", "lr_scheduler_state": {}}],
        "extra_state": {"train_iterator": {"epoch": 1}},
        "last_optimizer_state": {"large": torch.zeros(100)},
    }
    torch.save(state, path)
    return model


def load(path: Path) -> dict[str, Any]:
    return checkpoint_utils.load_checkpoint_to_cpu(str(path))


def test_the_average_is_the_mean_of_the_newest_checkpoints(tmp_path):
    models = [save(tmp_path / f"checkpoint{epoch}.pt", epoch) for epoch in (8, 9, 10, 11)]  # not in order of names
    save(tmp_path / "checkpoint_last.pt", 99)
    path = average_checkpoints(tmp_path, 3)
    average = load(path)
    for key in models[0]:
        torch.testing.assert_close(average["model"][key], torch.stack([m[key] for m in models[1:]]).mean(0))
    assert average["model"]["version"].tolist() == [3.0]
    assert "last_optimizer_state" not in average
    assert average["cfg"]["model"]["_name"] == "transformer"


def test_checkpoints_inside_epochs_are_averaged_by_their_updates(tmp_path):
    save(tmp_path / "checkpoint1.pt", 1)  # one end of an epoch, too few
    models = [save(tmp_path / f"checkpoint_{e}_{u}.pt", u) for e, u in ((1, 500), (1, 750), (2, 1000))]
    average = load(average_checkpoints(tmp_path, 2))["model"]
    torch.testing.assert_close(average["weight"], (models[1]["weight"] + models[2]["weight"]) / 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_checkpoint_averaged_with_itself_is_itself(tmp_path, dtype):
    for epoch in (1, 2, 3):
        model = save(tmp_path / f"checkpoint{epoch}.pt", 7, dtype)
    average = load(average_checkpoints(tmp_path, 3))["model"]
    assert average["weight"].dtype == dtype
    torch.testing.assert_close(average["weight"], model["weight"])


def test_half_precision_is_averaged_without_losing_digits(tmp_path):
    models = [save(tmp_path / f"checkpoint{epoch}.pt", epoch, torch.float16) for epoch in range(1, 9)]
    average = load(average_checkpoints(tmp_path, 8))["model"]["weight"]
    exact = torch.stack([model["weight"].double() for model in models]).mean(0)
    assert torch.equal(average, exact.float().half())


def refusal(read: Callable[[Path], object], path: Path) -> str:
    """What is said of the file, or nothing where it can be read."""
    try:
        read(path)
    except UserError as error:
        return str(error)
    return ""


def refused(read: Callable[[Path], object], path: Path) -> bool:
    said = refusal(read, path)
    assert not said or f"{path.name} is refused: it " in said
    assert "\n" not in said
    return bool(said)


def test_a_damaged_checkpoint_is_one_clear_error(tmp_path):
    path, rng = tmp_path / "checkpoint1.pt", np.random.default_rng(1)
    save(path, 1)
    whole = path.read_bytes()
    state = torch.load(path, weights_only=False) | {"filler": torch.zeros(50_000)}
    torch.save(state, path)
    large = path.read_bytes()
    cuts = [*(large[:end] for end in range(0, len(large), 5000)), *(whole[:end] for end in range(0, len(whole), 500))]
    for content in (*cuts, b"not a checkpoint\n", bytes(1000)):
        path.write_bytes(content)
        assert refused(read_checkpoint, path)
    for read in (lambda path: average_checkpoints(path.parent, 1), lambda path: load_model(path, tmp_path)):
        assert refused(read, path)
    torch.save([state], path)
    assert refused(read_checkpoint, path)
    harmless = 0
    for _ in range(200):  # where the weights themselves are another number nobody can tell
        content = bytearray(whole)
        start = rng.integers(len(whole) - 8)
        content[start : start + 8] = rng.bytes(8)
        path.write_bytes(content)
        harmless += not refused(read_checkpoint, path)
    assert harmless < 150
    assert not list(tmp_path.glob("*average*"))


def test_too_few_checkpoints_are_one_clear_error(tmp_path):
    for epoch in (1, 2):
        save(tmp_path / f"checkpoint{epoch}.pt", epoch)
    with pytest.raises(UserError, match="3 checkpoints are to be averaged, 2 were saved; train longer, save") as error:
        average_checkpoints(tmp_path, 3)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.glob("*average*"))


def test_the_protocol_chooses_the_file(tmp_path):
    for epoch in (1, 2):
        save(tmp_path / f"checkpoint{epoch}.pt", epoch)
    assert checkpoint_of(tmp_path, "best") == tmp_path / "checkpoint_best.pt"
    assert checkpoint_of(tmp_path, "last") == tmp_path / "checkpoint_last.pt"
    path = checkpoint_of(tmp_path, "average 2")
    before = path.read_bytes()
    save(tmp_path / "checkpoint3.pt", 3)
    assert checkpoint_of(tmp_path, "average 2") == path
    assert path.read_bytes() != before, "always of the newest"
    assert not list(tmp_path.glob("*.tmp"))


# the draw


def test_the_draw_is_fixed_by_its_seed_and_repeats_no_sentence():
    chosen = draw(3000, 2000, 0)
    assert chosen == draw(3000, 2000, 0) == sorted(set(chosen))
    assert len(chosen) == 2000
    assert chosen[0] >= 0
    assert chosen[-1] < 3000
    assert chosen != draw(3000, 2000, 1)
    assert chosen[:5] == [0, 1, 2, 4, 5], "the draw of every record so far"


@pytest.mark.parametrize("sentences", [None, 10, 11])
def test_a_split_no_larger_than_the_draw_is_scored_whole(sentences):
    assert draw(10, sentences, 0) == list(range(10))


# scores


def test_scores_are_those_of_sacrebleu_s_command(tmp_path):
    rng = random.Random(1)
    words = ["Das", "alte", "Haus", "steht,", "nicht", "weit;", "vom", "(Fluss)", "3.5", "%", '"groß"', "und", "l'eau"]
    references = [" ".join(rng.choices(words, k=rng.randint(4, 20))) + " ." for _ in range(60)]
    hypotheses = [" ".join(w for w in line.split() if rng.random() < 0.8) for line in references]
    chosen = draw(60, 40, 3)
    for name, lines in (("ref", references), ("hyp", hypotheses)):
        (tmp_path / name).write_text("".join(f"{lines[i]}\n" for i in chosen))
    command = [sys.executable, "-m", "sacrebleu", "ref", "-i", "hyp", "-m", "bleu", "chrf", "-w", "6"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    bleu, chrf = score(hypotheses, references, "test", chosen)
    assert 10 < bleu.value < 90
    for ours, theirs in zip((bleu, chrf), json.loads(done.stdout), strict=True):
        assert ours.metric.lower() == theirs["name"].lower().removesuffix("2")
        assert ours.value == pytest.approx(theirs["score"], abs=1e-6)
        assert ours.signature == theirs["signature"]
        assert (ours.split, ours.items) == ("test", 40)
