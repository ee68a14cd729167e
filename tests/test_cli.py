"""The console command: fairseq's commands one after the other on a tiny copy task, in processes of their own."""

import json
import os
import random
import re
import shlex
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

from memtrans_fairseq import cli

import pytest
import torch
from fairseq import checkpoint_utils

ROOT = Path(__file__).parents[1]
# what pip installs for the entry point
SCRIPT = "import sys\nfrom memtrans_fairseq.cli import main\nif __name__ == '__main__':\n    sys.exit(main())\n"
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
    "OMP_NUM_THREADS": "1",
    "WANDB_MODE": "offline",
}
NO_GPU = ENVIRONMENT | {"CUDA_VISIBLE_DEVICES": ""}
DEVICE = ["--cpu"]
MODEL = shlex.split(
    "--encoder-layers 1 --decoder-layers 1 --encoder-embed-dim 32 --decoder-embed-dim 32 --encoder-ffn-embed-dim 64 "
    "--decoder-ffn-embed-dim 64 --encoder-attention-heads 2 --decoder-attention-heads 2 --share-all-embeddings"
)
RECIPE = shlex.split(
    "--optimizer adam --lr 0.005 --criterion label_smoothed_cross_entropy --label-smoothing 0.1 --max-tokens 400 "
    "--seed 1 --no-epoch-checkpoints --log-format json"
)


@pytest.fixture(scope="session")
def script(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("bin") / "memtrans-fairseq"
    path.write_text(SCRIPT)
    return path


@pytest.fixture(scope="session")
def command(script, tmp_path_factory):
    """Runs the console command to its end, which must be a good one; returns standard output and error together."""
    folder = tmp_path_factory.mktemp("cwd")

    def run(*arguments: object, text: str = "", cwd: Path = folder) -> str:
        line = [sys.executable, str(script), *map(str, arguments)]
        env = NO_GPU if DEVICE[0] in arguments else ENVIRONMENT
        done = subprocess.run(line, env=env, input=text, cwd=cwd, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Warning" not in done.stderr
        return done.stdout + done.stderr

    return run


@pytest.fixture(scope="session")
def text(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    draw = random.Random(0)
    for split, lines in (("train", 200), ("valid", 20), ("test", 20)):
        sentences = "".join(
            " ".join(draw.choices([f"w{n}" for n in range(20)], k=draw.randint(3, 8))) + "\n" for _ in range(lines)
        )
        for language in ("aa", "bb"):
            (folder / f"{split}.{language}").write_text(sentences)
    return folder


@pytest.fixture(scope="session")
def data(command, text) -> Path:
    prefixes = [f"--{split}pref={text / split}" for split in ("train", "valid", "test")]
    command(
        "preprocess",
        "-s",
        "aa",
        "-t",
        "bb",
        *prefixes,
        "--destdir",
        text / "bin",
        "--joined-dictionary",
        "--workers",
        2,
    )
    return text / "bin"


def training(data: Path, save_dir: Path, *more: object) -> list[str]:
    return ["train", *map(str, [data, "--arch", "transformer", *MODEL, *RECIPE, "--save-dir", save_dir, *more])]


# the checkpoint then holds numpy arrays (BLEU's counts) beside the model's Namespace
BLEU = ["--eval-bleu", "--eval-bleu-args", '{"beam": 1}', "--best-checkpoint-metric", "bleu"]
LONG = [*DEVICE, "--max-epoch", 6, "--save-interval-updates", 3, "--keep-interval-updates", 1, *BLEU]


@pytest.fixture(scope="session")
def trained(command, data, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    log = command(*training(data, folder, *LONG))
    (folder / "log").write_text(log)
    assert losses(log, "train")[-1] < losses(log, "train")[0]
    return folder / "checkpoint_last.pt"


@pytest.fixture(scope="session")
def translated(command, data, trained) -> str:
    return command("generate", data, "--path", trained, "--beam", 2, "--print-alignment", *DEVICE)


def hypotheses(out: str) -> dict[str, str]:
    """Sentence numbers to the hypotheses that `generate` or `interactive` printed."""
    return dict(re.findall(r"^H-(\d+)\t-?[\d.]+\t(.*)$", out, re.MULTILINE))


def losses(log: str, split: str) -> list[float]:
    """The mean loss of each epoch, or of each validation."""
    entries = [json.loads(found) for found in re.findall(rf"\| {split} \| (\{{.*\}})", log)]
    return [float(entry[f"{split}_loss"]) for entry in entries]


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    """What the model computes with: neither fairseq's unset buffer nor the parameters of the encoder's fast path."""
    unused = re.compile(r"_float_tensor$|encoder\.layers\.\d+\.(in_proj|out_proj|fc1|fc2)_(weight|bias)$")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        saved = checkpoint_utils.load_checkpoint_to_cpu(str(checkpoint))["model"]
    return {name: value for name, value in saved.items() if not unused.search(name)}


# the command itself


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_help_lists_the_commands_at_once(script, arguments):
    start = time.perf_counter()
    done = subprocess.run([sys.executable, script, *arguments], env=NO_GPU, capture_output=True, text=True)
    assert time.perf_counter() - start < 1
    assert (done.returncode, done.stderr) == (0, "")
    assert all(f"\n  {name} " in done.stdout for name in cli.COMMANDS)


def test_an_unknown_command_names_the_near_ones(script):
    done = subprocess.run([sys.executable, script, "trian"], env=NO_GPU, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "memtrans-fairseq: unknown command 'trian'; did you mean train?\n"


def test_there_is_a_command_for_each_of_fairseqs():
    from importlib.metadata import distribution

    theirs = {entry.name: entry.value for entry in distribution("fairseq").entry_points}
    assert theirs == {f"fairseq-{name}": f"fairseq_cli.{name.replace('-', '_')}:cli_main" for name in cli.COMMANDS}


def test_the_usage_of_a_command_bears_our_name(capsys):
    before = sys.argv, list(warnings.filters)
    with pytest.raises(SystemExit) as end:
        cli.main(["train", "--help"])
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith("usage: memtrans-fairseq train ")
    with pytest.raises(SystemExit):
        cli.main(["train", "data", "--arch", "mem_transforer"])
    assert "choose from" in (complaint := capsys.readouterr().err)
    assert "mem_transformer_base" in complaint
    assert (sys.argv, list(warnings.filters)) == before


# fairseq's commands


@pytest.mark.slow
def test_generate_translates_and_aligns(translated, text):
    numbers = [str(number) for number in range(20)]
    assert hypotheses(translated).keys() == set(numbers)
    sources = dict(re.findall(r"^S-(\d+)\t(.*)$", translated, re.MULTILINE))
    assert [sources[number] for number in numbers] == (text / "test.aa").read_text().splitlines()
    alignments = dict(re.findall(r"^A-(\d+)\t(.+)$", translated, re.MULTILINE))
    assert alignments.keys() == set(numbers)
    for number, pairs in alignments.items():
        source, target = zip(*(map(int, pair.split("-")) for pair in pairs.split()), strict=True)
        assert max(source) <= len(sources[number].split())
        assert max(target) <= len(hypotheses(translated)[number].split())


@pytest.mark.slow
def test_interactive_gives_the_hypotheses_of_generate(command, data, trained, translated, text):
    languages = ["-s", "aa", "-t", "bb"]
    typed = (text / "test.aa").read_text()
    out = command("interactive", data, "--path", trained, "--beam", 2, *languages, *DEVICE, text=typed)
    assert hypotheses(out) == hypotheses(translated)


@pytest.mark.slow
def test_validate_gives_the_loss_of_training(command, data, trained):
    out = command("validate", data, "--path", trained, "--task", "translation", "--max-tokens", 400, *DEVICE)
    loss = float(re.search(r"\| valid on 'valid' subset \| loss ([\d.]+)", out)[1])
    assert loss == losses((trained.parent / "log").read_text(), "valid")[-1]


@pytest.mark.slow
def test_score_of_the_reference_is_100(command, text):
    assert "BLEU4 = 100.00" in command("score", "--sys", text / "test.bb", "--ref", text / "test.bb")


@pytest.mark.slow
def test_a_language_model_is_trained_and_evaluated(command, text, tmp_path):
    prefixes = [f"--{split}pref={text / split}.aa" for split in ("train", "valid", "test")]
    command("preprocess", "--only-source", *prefixes, "--destdir", tmp_path / "bin")
    size = "--decoder-layers 1 --decoder-embed-dim 32 --decoder-ffn-embed-dim 64 --decoder-attention-heads 2"
    task = ["--task", "language_modeling", "--sample-break-mode", "eos", "--max-tokens", 400, *DEVICE]
    recipe = shlex.split("--optimizer adam --lr 0.005 --max-epoch 1 --no-epoch-checkpoints")
    saved = ["--save-dir", tmp_path / "checkpoints"]
    command("train", tmp_path / "bin", "--arch", "transformer_lm", *shlex.split(size), *task, *recipe, *saved)
    out = command("eval-lm", tmp_path / "bin", "--path", tmp_path / "checkpoints/checkpoint_last.pt", *task)
    tokens, perplexity = int(re.search(r"Evaluated (\d+) tokens", out)[1]), re.search(r"Perplexity: ([\d.]+)", out)
    assert tokens == sum(len(line.split()) + 1 for line in (text / "test.aa").read_text().splitlines())
    assert 5 < float(perplexity[1]) < 40


@pytest.mark.slow
def test_hydra_train_takes_the_preset(command, data, tmp_path):
    log = command(
        "hydra-train",
        *("task=translation", f"task.data={data}", "task.source_lang=aa", "task.target_lang=bb"),
        *("+model._name=transformer_iwslt_de_en", "+model.encoder_layers=1", "+model.decoder_layers=1"),
        *("criterion=cross_entropy", "optimizer=adam", "optimization.lr=[0.001]", "optimization.max_update=2"),
        *(
            "dataset.max_tokens=400",
            "common.cpu=true",
            "common.bf16=true",
            f"common.tensorboard_logdir={tmp_path}/board",
        ),
        cwd=tmp_path,
    )
    assert "done training" in log
    saved = weights(tmp_path / "checkpoints/checkpoint_last.pt")
    assert saved["encoder.layers.0.fc1.weight"].shape == (1024, 512), "iwslt_de_en has 1024 wide feed-forward layers"
    assert "encoder.layers.1.fc1.weight" not in saved


@pytest.mark.slow
def test_hydra_train_takes_own_presets_and_changes_to_them(command, data, tmp_path):
    log = command(
        "hydra-train",
        *("task=translation", f"task.data={data}", "task.source_lang=aa", "task.target_lang=bb"),
        *("model=mem_transformer_demo", "model.memory_tokens=3", "common.cpu=true", "dataset.max_tokens=400"),
        *("criterion=cross_entropy", "optimizer=adam", "optimization.lr=[0.001]", "optimization.max_update=2"),
        cwd=tmp_path,
    )
    assert "done training" in log
    saved = weights(tmp_path / "checkpoints/checkpoint_last.pt")
    assert saved["encoder.memory.weight"].shape == (3, 64)
    assert saved["encoder.layers.0.fc1.weight"].shape == (256, 64)


@pytest.mark.slow
def test_as_user_dir_the_plugin_does_no_harm(command, data, tmp_path):
    plugin = ["--user-dir", ROOT / "memtrans_fairseq", "--arch", "mem_transformer_demo", "--memory-tokens", 3]
    assert "done training" in command(*training(data, tmp_path, *DEVICE, "--max-update", 2, *plugin))


@pytest.mark.slow
def test_tensorboard_and_wandb_get_the_numbers(script, data, tmp_path):
    pytest.importorskip("tensorboard")
    pytest.importorskip("wandb")
    trackers = ["--tensorboard-logdir", "board", "--wandb-project", "copying"]
    line = [sys.executable, script, *training(data, tmp_path / "checkpoints", *DEVICE, "--max-epoch", 1, *trackers)]
    done = subprocess.run(line, env=NO_GPU, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.glob("board/train/events.out.tfevents.*"))
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))


@pytest.mark.slow
def test_a_killed_training_continues_to_the_same_weights(script, command, data, trained, tmp_path):
    line = [sys.executable, str(script), *training(data, tmp_path, *LONG)]
    started = subprocess.Popen(line, env=NO_GPU, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not list(tmp_path.glob("checkpoint_last.pt")):
        assert started.poll() is None, "training ended before its first checkpoint"
        time.sleep(0.005)
    started.send_signal(signal.SIGKILL)
    assert started.wait() == -signal.SIGKILL, "training ended before it was killed"
    log = command(*training(data, tmp_path, *LONG))
    assert "Loaded checkpoint" in log
    whole, continued = weights(trained), weights(tmp_path / "checkpoint_last.pt")
    assert whole.keys() == continued.keys()
    assert all(torch.equal(whole[name], continued[name]) for name in whole)


COUNTS = """
import inspect, sys
from pathlib import Path
from memtrans_fairseq.cli import main
from fairseq import checkpoint_utils
from fairseq.trainer import Trainer

folder, *arguments = sys.argv[1:]
cured, uncured = Trainer.load_checkpoint, inspect.unwrap(Trainer.load_checkpoint)
for name, Trainer.load_checkpoint in (("cured", cured), ("uncured", uncured)):
    for epoch in ("1", "2"):
        main([*arguments, "--save-dir", f"{folder}/{name}", "--max-epoch", epoch])
    state = checkpoint_utils.load_checkpoint_to_cpu(f"{folder}/{name}/checkpoint_last.pt")
    meters = {name: meter for _, name, _, meter in state["extra_state"]["metrics"]["default"]}
    print("COUNTED", meters["wpb"]["count"], state["optimizer_history"][-1]["num_updates"], file=sys.stderr)
"""


@pytest.mark.slow
def test_a_continued_training_counts_all_its_updates(data, tmp_path):
    arguments = training(data, tmp_path, *DEVICE, "--num-workers", 0)
    line = [sys.executable, "-c", COUNTS, str(tmp_path), *arguments]
    done = subprocess.run(line, env=NO_GPU, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (counted, updates), (uncured, _) = (
        map(int, line.split()[1:]) for line in done.stderr.splitlines() if line.startswith("COUNTED")
    )
    assert counted == updates
    assert uncured == updates / 2


@pytest.mark.slow
def test_an_unsafe_checkpoint_ends_in_one_line(script, data, tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "made-by-the-pickle"),)

    torch.save({"args": None, "model": Evil()}, tmp_path / "evil.pt")
    line = [sys.executable, str(script), "generate", str(data), "--path", str(tmp_path / "evil.pt"), *DEVICE]
    done = subprocess.run(line, env=NO_GPU, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("memtrans-fairseq generate: checkpoint ")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "made-by-the-pickle").exists()


# precision


@pytest.mark.slow
@pytest.mark.parametrize(
    ("device", "precision"),
    [
        pytest.param(["--cpu"], "--bf16", id="cpu-bf16"),
        *(pytest.param([], name, id=f"gpu{name[1:]}", marks=pytest.mark.gpu) for name in ("--fp16", "--bf16", "--amp")),
        pytest.param([], "--memory-efficient-fp16", id="gpu-memory-efficient-fp16", marks=pytest.mark.gpu),
        pytest.param([], "--memory-efficient-bf16", id="gpu-memory-efficient-bf16", marks=pytest.mark.gpu),
    ],
)
def test_training_in_lower_precision_learns_and_translates(command, data, tmp_path, device, precision):
    by_epoch = losses(command(*training(data, tmp_path, *device, precision, "--max-epoch", 6)), "train")
    assert len(by_epoch) == 6
    assert by_epoch[-1] < by_epoch[0] - 0.3
    halves = ["--fp16"] if precision == "--fp16" else []
    out = command("generate", data, "--path", tmp_path / "checkpoint_last.pt", "--beam", 2, *device, *halves)
    assert len(hypotheses(out)) == 20


# several ranks: fairseq spawns one per GPU, so the tests claim that the machine has two

TWO_GPUS = "torch.cuda.device_count = lambda: 2"
CONSOLE = (
    f"import torch\nfrom memtrans_fairseq.cli import main\nif __name__ == '__main__':\n    {TWO_GPUS}\n    main()\n"
)
MODULE = f"""
def main():
    import sys, torch
    from memtrans_fairseq import cli
    from fairseq.distributed import utils
    {TWO_GPUS}
    how, *arguments = sys.argv[1:]
    if how == "stock":
        utils.distributed_main = utils.fairseq_distributed_main
    cli.main(arguments)

if __name__ == "__main__":
    main()
"""


def two_ranks(data: Path, folder: Path, epochs: int, *launcher: str) -> subprocess.CompletedProcess[str]:
    ranks = shlex.split("--distributed-world-size 2 --distributed-backend gloo --ddp-backend legacy_ddp --cpu")
    line = [sys.executable, *launcher, *training(data, folder / "checkpoints", *ranks, "--max-epoch", epochs)]
    return subprocess.run(line, env=NO_GPU, cwd=folder, capture_output=True, text=True, timeout=120)


@pytest.mark.slow
def test_spawned_ranks_are_cured_however_the_first_process_was_started(data, tmp_path):
    (tmp_path / "memtrans-fairseq").write_text(CONSOLE)
    (tmp_path / "launch.py").write_text(MODULE)
    for epoch, launcher in enumerate((["memtrans-fairseq"], ["-m", "launch", "cured"]), start=1):
        done = two_ranks(data, tmp_path, epoch, *launcher)
        assert done.returncode == 0, done.stderr
        assert "as rank 1" in done.stderr
        assert "Warning" not in done.stderr
        assert len(losses(done.stderr, "train")) == 1
    assert "Loaded checkpoint" in done.stderr


@pytest.mark.slow
def test_ranks_that_fairseq_spawns_by_itself_do_not_start(data, tmp_path):
    (tmp_path / "launch.py").write_text(MODULE)
    done = two_ranks(data, tmp_path, 1, "-m", "launch", "stock")
    assert done.returncode != 0
    assert "mutable default" in done.stderr
