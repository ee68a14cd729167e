"""The stream: every token once, state where it belongs, and trainings that go on in the middle of an epoch."""

import json
import os
import subprocess
import sys
from pathlib import Path

from memtrans_fairseq.cli import main as fairseq_main
from memtrans_fairseq.streaming import StreamDataset, read_stream, token_losses
from memtrans_fairseq.tasks.streaming import StreamingLanguageModelingTask
from memtrans_fairseq.variants import SettingError

import numpy as np
import pytest
import torch
from fairseq.checkpoint_utils import load_checkpoint_to_cpu
from fairseq.data import Dictionary, indexed_dataset
from fairseq.trainer import Trainer
from lm_toy import DICTIONARY, EOS, PAD, SIZE, build, shake, text

TOKENS = np.arange(100, 203)  # 103: no number of rows or segments divides it


def cut(rows: int, length: int, shard: int = 0, shards: int = 1) -> StreamDataset:
    return StreamDataset(TOKENS, 1, length, EOS, PAD).cut(rows, shard, shards)


@pytest.mark.parametrize("rows", [1, 2, 7, 10, 103])
@pytest.mark.parametrize("length", [1, 4, 16, 200])
def test_every_token_is_predicted_once_after_the_one_before_it(rows, length):
    seen = []
    for item in cut(rows, length):
        source, target = item["net_input"]["src_tokens"], item["target"]
        real = target != PAD
        assert source.shape == target.shape
        assert item["ntokens"] == real.sum()
        assert torch.equal(item["net_input"]["src_lengths"], real.sum(dim=1))
        assert torch.equal(source != PAD, real)
        before = torch.where(target == 100, EOS, target - 1)
        assert torch.equal(source[real], before[real])
        seen += target[real].tolist()
    assert sorted(seen) == TOKENS.tolist()


def test_a_row_goes_on_in_the_next_segment():
    items = list(cut(3, 8))
    whole = torch.cat([item["target"] for item in items], dim=1)
    for row, first in enumerate((100, 135, 170)):
        assert whole[row].tolist()[:33] == list(range(first, first + 33))


@pytest.mark.parametrize("shards", [2, 3])
def test_shards_together_read_what_one_reads(shards):
    together = [cut(2, 8, shard, shards) for shard in range(shards)]
    for whole, *parts in zip(cut(2 * shards, 8), *together, strict=True):
        assert torch.equal(torch.cat([part["target"] for part in parts]), whole["target"])
        assert sum(part["ntokens"] for part in parts) == whole["ntokens"]


STOCK = {"decoder_input_dim": 12, "decoder_output_dim": 12, "tokens_per_sample": 10, "max_target_positions": 10}


@pytest.mark.parametrize(
    "options",
    [{"share_decoder_input_output_embed": True}, {"adaptive_softmax_cutoff": "20,40", "adaptive_softmax_factor": 2}],
    ids=["plain", "adaptive"],
)
def test_losses_of_fairseqs_own_model_are_its_probabilities(options):
    model = build("transformer_lm", add_bos_token=False, tpu=False, **STOCK, **options)
    tokens = text(2, 11)
    tokens[1, -3:] = PAD
    losses, state = token_losses(model, tokens[:, :-1], tokens[:, 1:])
    with torch.no_grad():
        logs = model.get_normalized_probs(model(tokens[:, :-1]), True, {"target": tokens[:, 1:].contiguous()})
    expected = -logs.gather(-1, tokens[:, 1:].unsqueeze(-1)).squeeze(-1) * (tokens[:, 1:] != PAD)
    assert state is None
    torch.testing.assert_close(losses, expected.float(), atol=1e-5, rtol=1e-5)
    losses.sum().backward()


def test_losses_in_segments_add_up_to_those_of_one_pass():
    model, tokens = shake(build("transformer_xl", mem_len=40)), text(2, 41)
    whole, _ = token_losses(model, tokens[:, :-1], tokens[:, 1:])
    state, parts = None, []
    for start in range(0, 40, 8):
        losses, state = token_losses(model, tokens[:, start : start + 8], tokens[:, start + 1 : start + 9], state)
        parts.append(losses)
    torch.testing.assert_close(torch.cat(parts, dim=1), whole)


# through fairseq's trainer


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """A small binarised corpus of random words."""
    folder = tmp_path_factory.mktemp("bin")
    DICTIONARY.save(str(folder / "dict.txt"))
    generator = torch.Generator().manual_seed(0)
    for split, lines in {"train": 90, "valid": 12}.items():
        builder = indexed_dataset.make_builder(str(folder / f"{split}.bin"), impl="mmap", vocab_size=len(DICTIONARY))
        for _ in range(lines):
            words = torch.randint(4, len(DICTIONARY), (9,), generator=generator, dtype=torch.int32)
            builder.add_item(torch.cat([words, words.new_tensor([EOS])]))
        builder.finalize(str(folder / f"{split}.idx"))
    return folder


SHAPE = [f"--{name.replace('_', '-')}={value}" for name, value in (SIZE | {"dropout": 0.1}).items()]
TRAIN = ["--task=streaming_language_modeling", "--criterion=streaming_nll", "--optimizer=fused_adam", "--lr=1e-2"]
TRAIN += ["--tokens-per-sample=8", "--batch-size=6", "--batch-size-valid=2", "--clip-norm=0.25", "--seed=3", "--cpu"]
TRAIN += ["--log-format=json", "--log-interval=1", "--no-epoch-checkpoints", "--num-workers=0"]
MODELS = {
    "transformer_xl": ["--arch=transformer_xl", "--mem-len=10"],
    "recurrent": ["--arch=mem_transformer_lm", "--memory-tokens=2", "--memory-placement=recurrent", "--memory-bptt=2"],
    "both": ["--arch=mem_transformer_lm", "--memory-tokens=2", "--memory-placement=recurrent", "--mem-len=6"],
}


def train(corpus: Path, save: Path, model: list[str], *options: str) -> None:
    fairseq_main(["train", str(corpus), *TRAIN, *SHAPE, *model, f"--save-dir={save}", *options])


def parameters(folder: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint_to_cpu(str(folder / "checkpoint_last.pt"))["model"]


@pytest.mark.parametrize("model", MODELS.values(), ids=list(MODELS))
def test_a_training_goes_on_exactly_in_the_middle_of_an_epoch(corpus, tmp_path, model):
    """An epoch has 19 segments, so updates 7 and 26 are in the middle of one, and state is carried across both."""
    train(corpus, tmp_path / "whole", model, "--max-update=33")
    for end in (7, 26, 33):
        train(corpus, tmp_path / "parts", model, f"--max-update={end}")
    whole, parts = parameters(tmp_path / "whole"), parameters(tmp_path / "parts")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_a_text_of_one_segment_goes_on_in_the_next_epoch(corpus, tmp_path):
    model = [*MODELS["transformer_xl"], "--tokens-per-sample=200"]
    train(corpus, tmp_path / "whole", model, "--max-epoch=4")
    for end in (2, 4):
        train(corpus, tmp_path / "parts", model, f"--max-epoch={end}")
    whole, parts = parameters(tmp_path / "whole"), parameters(tmp_path / "parts")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_a_validation_on_the_text_of_the_training_does_not_move_the_training_on(corpus, tmp_path):
    options = ("--max-epoch=2", "--validate-interval-updates=4", "--valid-subset=train", "--batch-size-valid=6")
    train(corpus, tmp_path, MODELS["transformer_xl"], *options)
    history = load_checkpoint_to_cpu(str(tmp_path / "checkpoint_last.pt"))["optimizer_history"]
    assert history[-1]["num_updates"] == 2 * 19


def test_state_is_read_again_where_the_checkpoint_has_none(corpus, tmp_path, monkeypatch):
    """As on every GPU but the first. A cache that reaches no farther back than what is read again is the same."""
    model = ["--arch=transformer_xl", "--mem-len=6", "--dropout=0"]
    train(corpus, tmp_path, model, "--max-update=7")
    checkpoint = load_checkpoint_to_cpu(str(tmp_path / "checkpoint_last.pt"))["task_state"]["carried"]
    found = []
    original = StreamingLanguageModelingTask._read_again

    def read_again(self, *args):
        found.append(original(self, *args))
        return found[-1]

    monkeypatch.setattr(StreamingLanguageModelingTask, "_read_again", read_again)
    monkeypatch.setattr(StreamingLanguageModelingTask, "load_state_dict", lambda self, state: None)
    train(corpus, tmp_path, model, "--max-update=9")
    assert len(found) == 1, "once at the start, and carried from then on"
    # the first layer takes word embeddings, which an update or two hardly change; the others take what layers made
    torch.testing.assert_close(found[0]["cache"][0], checkpoint["state"]["cache"][0], atol=0.05, rtol=0)
    assert [layer.shape for layer in found[0]["cache"]] == [layer.shape for layer in checkpoint["state"]["cache"]]


def test_state_starts_anew_in_every_epoch_and_validation(corpus, tmp_path, monkeypatch):
    starts = []
    original = StreamingLanguageModelingTask.train_step, StreamingLanguageModelingTask.valid_step

    def watch(stage, step):
        def watched(self, sample, model, *args, **kwargs):
            handed = []
            hook = model.register_forward_pre_hook(lambda m, a, k: handed.append(k["state"]), with_kwargs=True)
            result = step(self, sample, model, *args, **kwargs)
            hook.remove()
            starts.append((stage, sample["place"][0], handed[0] is None))
            return result

        return watched

    monkeypatch.setattr(StreamingLanguageModelingTask, "train_step", watch("train", original[0]))
    monkeypatch.setattr(StreamingLanguageModelingTask, "valid_step", watch("valid", original[1]))
    train(corpus, tmp_path, MODELS["transformer_xl"], "--max-epoch=2", "--validate-interval-updates=5")
    assert {stage for stage, _, _ in starts} == {"train", "valid"}
    assert all(anew == (segment == 0) for _, segment, anew in starts)


def test_other_criterions_of_fairseq_work_too(corpus, tmp_path, capfd):
    train(corpus, tmp_path, MODELS["transformer_xl"], "--max-update=3", "--criterion=cross_entropy", "--mem-len=0")
    assert (tmp_path / "checkpoint_last.pt").exists()


def test_a_criterion_that_drops_the_state_is_refused(corpus, tmp_path):
    with pytest.raises(SettingError, match="use --criterion streaming_nll"):
        train(corpus, tmp_path, MODELS["transformer_xl"], "--max-update=3", "--criterion=cross_entropy")


@pytest.mark.parametrize("model", MODELS.values(), ids=list(MODELS))
def test_a_task_that_knows_no_streams_is_refused(corpus, tmp_path, model):
    options = ("--task=language_modeling", "--criterion=cross_entropy", "--max-update=3")
    with pytest.raises(SettingError, match="LanguageModelingTask forgets cache"):
        train(corpus, tmp_path, model, *options)
    train(corpus, tmp_path, ["--arch=mem_transformer_lm", "--memory-tokens=2"], *options)  # which carries nothing


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--add-bos-token"], "no beginning"),
        (["--memory-placement=interspersed", "--memory-every=8"], "no memory inside a segment of 8 tokens"),
    ],
)
def test_what_a_stream_cannot_have_is_refused(corpus, tmp_path, options, message):
    with pytest.raises(SettingError, match=message):
        train(corpus, tmp_path, ["--arch=mem_transformer_lm", *options], "--max-update=1")


@pytest.mark.parametrize("overflows", [False, True])
def test_a_segment_that_is_tried_again_gets_the_same_state(corpus, tmp_path, monkeypatch, overflows):
    """As fairseq does with --amp after an overflow: the same batch once more, with a smaller loss scale."""
    original, handed = StreamingLanguageModelingTask.train_step, []

    def twice(self, sample, model, *args, **kwargs):
        hook = model.register_forward_pre_hook(lambda m, a, k: handed.append(k["state"]), with_kwargs=True)
        first = original(self, sample, model, *args, **kwargs)
        if overflows and handed[-1]:
            self.carried["train"]["loss"].fill_(float("inf"))
        result = original(self, sample, model, *args, **kwargs) if not overflows else first
        hook.remove()
        return result

    monkeypatch.setattr(StreamingLanguageModelingTask, "train_step", twice)
    train(corpus, tmp_path, MODELS["both"], "--max-update=4")
    if overflows:  # what such a step leaves is neither carried on nor saved
        saved = load_checkpoint_to_cpu(str(tmp_path / "checkpoint_last.pt"))["task_state"]["carried"]["state"]
        assert handed[0] is None
        for later in (handed[2], handed[3], saved):
            assert torch.equal(later["memory"], handed[1]["memory"])
    else:
        assert len(handed) == 8
        assert handed[0] is handed[1] is None
        assert all(one is two for one, two in zip(handed[2::2], handed[3::2], strict=True))
        assert not torch.equal(handed[4]["memory"], handed[2]["memory"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--batch-size=901"], "lower --batch-size"),
        (["--tokens-per-sample=0"], "expected at least 1"),
        (["--valid-subset=nothing"], "no binarised text"),
    ],
)
def test_settings_that_cannot_work_end_in_one_line(corpus, tmp_path, options, message):
    command = [sys.executable, "-c", "import sys, memtrans_fairseq.cli as c; sys.argv[0] = c.PROGRAM; c.main()"]
    command += [
        "train",
        str(corpus),
        *TRAIN,
        *SHAPE,
        *MODELS["transformer_xl"],
        f"--save-dir={tmp_path}",
        "--max-update=1",
        *options,
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert done.returncode == 1
    assert message in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_two_processes_learn_what_one_does(corpus, tmp_path):
    """Gradients over gloo: rows on two ranks, the same as all rows on one; then both are stopped and go on."""
    model = [*MODELS["both"], "--dropout=0", "--activation-dropout=0"]

    def run(save: str, processes: int, *options: str) -> list[float]:
        launcher = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            f"--nproc-per-node={processes}",
            "--master-port=29513",
        ]
        program = tmp_path / "train.py"
        program.write_text(
            "import sys, memtrans_fairseq.cli as c\n"
            "c.main(sys.argv[1:])\n"
            "import torch.distributed as d\n"
            "assert not d.is_initialized(), 'its threads would outlive the interpreter'\n"
        )
        command = [*launcher, str(program), "train", str(corpus), *TRAIN, *SHAPE, *model, *options]
        command += [f"--save-dir={tmp_path / save}", "--distributed-backend=gloo", "--ddp-backend=legacy_ddp"]
        command += [f"--batch-size={6 // processes}"]
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr[-3000:]
        lines = (line.partition(" | train_inner | ")[2] for line in (done.stdout + done.stderr).splitlines())
        return [float(json.loads(line)["loss"]) for line in lines if line]

    alone, together = run("one", 1, "--max-update=12"), run("two", 2, "--max-update=12")
    assert together == pytest.approx(alone, abs=0.002)  # logged with three digits
    assert len(alone) == 12
    for name, value in parameters(tmp_path / "one").items():
        torch.testing.assert_close(parameters(tmp_path / "two")[name], value, atol=1e-4, rtol=1e-3, msg=name)
    assert len(run("two", 2, "--max-update=15")) == 3


def test_the_stream_of_a_split_is_its_lines(corpus):
    data = indexed_dataset.MMapIndexedDataset(str(corpus / "train"))
    assert np.array_equal(read_stream(str(corpus / "train")), np.concatenate([data[i].numpy() for i in range(90)]))
    assert len(Dictionary.load(str(corpus / "dict.txt"))) == len(DICTIONARY)


def test_fairseqs_trainer_alone_forgets_what_a_task_keeps(corpus, tmp_path, monkeypatch):
    """What `compat.task_state_comes_back` cures: without it the state would have to be read again at every start."""
    train(corpus, tmp_path, MODELS["transformer_xl"], "--max-update=7")
    given = []
    monkeypatch.setattr(StreamingLanguageModelingTask, "load_state_dict", lambda self, state: given.append(state))
    monkeypatch.setattr(Trainer, "load_checkpoint", Trainer.load_checkpoint.__wrapped__)
    train(corpus, tmp_path, MODELS["transformer_xl"], "--max-update=8")
    assert given == []
    monkeypatch.undo()
    monkeypatch.setattr(StreamingLanguageModelingTask, "load_state_dict", lambda self, state: given.append(state))
    train(corpus, tmp_path, MODELS["transformer_xl"], "--max-update=9")
    assert given[0]["carried"]["of"] == (7, 6, 0, 1, 8)


def test_who_asks_for_batches_again_gets_the_same_iterator():
    """Each has a worker of its own, and one that is dropped keeps a training waiting for seconds."""
    task = StreamingLanguageModelingTask.__new__(StreamingLanguageModelingTask)
    task.shares_rows, task.dataset_to_epoch_iter = False, {}
    text = StreamDataset(np.arange(4, 104), 1, 5, eos=2, pad=1)
    first = task.get_batch_iterator(text, max_sentences=2)
    assert task.get_batch_iterator(text, max_sentences=2, epoch=2) is first
    assert task.get_batch_iterator(text, max_sentences=4) is not first
    assert task.get_batch_iterator(text, max_sentences=2, disable_iterator_cache=True) is not first
    epochs = [[batch["place"][0] for batch in first.next_epoch_itr()] for _ in range(2)]
    assert epochs == [list(range(10))] * 2
