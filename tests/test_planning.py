"""The plan of a sweep: what is downloaded, how many tokens, how many hours; and the warm-up that tells the speed."""

import io
import subprocess
import sys
import time
from pathlib import Path

import pytest
from corpora_toys import serving, toy_wmt, wmt_files
from make_records import record
from rich.console import Console

from memtrans import planning, warmup
from memtrans.configuration import CONFIGS, compose
from memtrans.corpora import foresee, pending_downloads, prepare
from memtrans.errors import UserError
from memtrans.jobs import language_modeling
from memtrans.jobs.translation import training_tokens as target_tokens
from memtrans.jobs.translation import weights
from memtrans.planning import show_plan, wall_hours
from memtrans.runs import plan_run
from memtrans.sweeping import plan_sweep
from memtrans.sweeps_spec import load_sweeps
from memtrans.warmup import Place, rates

REPOSITORY = Path(__file__).resolve().parent.parent
SMALL = ["corpus.sizes.train=400", "corpus.sizes.valid=20", "corpus.sizes.test=20", "corpus.vocabulary.size=200"]
BY_UPDATES = {"max_update": 3000, "max_epoch": None, "max_tokens": 8192, "update_freq": 1}


@pytest.fixture(autouse=True)
def _no_mirror(monkeypatch):
    monkeypatch.delenv("MEMTRANS_MIRROR", raising=False)


def sweep_configs(name: str, folder: Path, *overrides: str) -> list:
    sweep = load_sweeps(CONFIGS)[name]
    paths = [f"paths.{kind}={folder / kind}" for kind in ("data", "runs", "results")]
    configs, refused = plan_sweep(sweep, sweep.seeds, [*paths, *overrides])
    assert not refused
    return configs


def plan(configs: list) -> str:
    output = io.StringIO()
    show_plan("a table", configs, None, Console(file=output, width=120))
    return output.getvalue()


def splits(**train) -> dict:
    return {"splits": {"train": train}}


def test_tokens_by_hand():
    by_epochs = BY_UPDATES | {"max_update": None, "max_epoch": 20}
    assert target_tokens(BY_UPDATES, splits(pairs=29000))[0] == pytest.approx(3000 * 8192 * 0.8)
    assert target_tokens(BY_UPDATES | {"update_freq": 4}, splits())[0] == pytest.approx(4 * 3000 * 8192 * 0.8)
    assert target_tokens(by_epochs, splits(pairs=4508785))[0] == 20 * 4508785 * 30
    assert target_tokens(by_epochs, splits(pairs=19000, target_tokens=239178))[0] == 20 * 239178
    both = BY_UPDATES | {"max_epoch": 2}
    assert target_tokens(both, splits(target_tokens=500_000))[0] == 1_000_000
    assert target_tokens(both, splits(target_tokens=500_000_000))[0] == pytest.approx(3000 * 8192 * 0.8)
    with pytest.raises(UserError, match=r"scripts\.prepare first"):
        target_tokens(by_epochs, splits())


def test_assumptions_agree_with_what_was_seen():
    """Multi30k, iwslt: 18.99 million target tokens in 3,000 updates, 35,639,296 parameters."""
    assert target_tokens(BY_UPDATES, splits())[0] == pytest.approx(18.99e6, rel=0.05)
    assert weights(compose(["size=iwslt", "variant=transformer"]).model, 8000) == pytest.approx(35_639_296, rel=0.02)


STREAMS = {"max_update": 4000, "max_epoch": None, "batch_size": 40, "tokens_per_sample": 150, "update_freq": 1}


def test_tokens_of_language_models_by_hand():
    tokens = language_modeling.training_tokens
    assert tokens(STREAMS, splits())[0] == 4000 * 40 * 150
    assert tokens(STREAMS | {"update_freq": 2}, splits(tokens=1))[0] == 2 * 4000 * 40 * 150
    by_epochs = STREAMS | {"max_epoch": 2, "max_update": None}
    assert tokens(by_epochs, splits(tokens=2_088_628))[0] == 2 * 2_088_628
    assert tokens(by_epochs | {"max_update": 10}, splits(tokens=2_088_628))[0] == 10 * 40 * 150
    with pytest.raises(UserError, match=r"scripts\.prepare first"):
        tokens(by_epochs, splits())


def test_weights_of_language_models():
    """The published model has 151,107,538 parameters; the farther parts of its vocabulary work on few tokens."""
    names = ("transformer_xl", "mem_transformer_lm")
    models = [dict(compose(["size=lm_base", f"variant={name}"]).model) for name in names]
    layers = 16 * (4 * 410**2 + 2 * 410 * 2100)
    assert [language_modeling.weights(model, 267_735) for model in models] == 2 * [20_000 * 410 + layers]
    whole = models[0] | {"adaptive_softmax_cutoff": None}
    assert language_modeling.weights(whole, 267_735) == pytest.approx(151_107_538, rel=0.03)
    recurrent = models[1] | {"memory_bptt": 3}
    assert language_modeling.weights(recurrent, 267_735) == 20_000 * 410 + 4 * layers


def test_the_made_up_text_suffices_for_the_warm_up(tmp_path):
    """So that no batch is short, and every word is one of the corpus' vocabulary."""
    import memtrans_fairseq  # noqa: F401  # isort: skip
    from fairseq.data import Dictionary, indexed_dataset

    train = STREAMS | {"max_update": 5} | language_modeling.small_batches(STREAMS, 500)
    assert train["batch_size"] == 3
    _, corpus = language_modeling.made_up(train, 1000)
    assert corpus["tokens"] > 5 * 3 * 150
    warmup.write_stream(tmp_path, **corpus)
    dictionary = Dictionary.load(str(tmp_path / "dict.txt"))
    assert len(dictionary) == 1000 + len(("<s>", "<pad>"))
    for split in ("train", "valid"):
        dataset = indexed_dataset.MMapIndexedDataset(str(tmp_path / split))
        assert len(dataset[0]) == corpus["tokens"]
        assert dataset[0].min() >= dictionary.nspecial
        assert dataset[0].max() < len(dictionary)


def test_wall_time_by_hand():
    assert wall_hours([2.0], 3) == 2
    assert wall_hours([1.0] * 5, 2) == 3
    assert wall_hours([3.0, 1.0, 1.0, 1.0], 2) == 3


def test_wmt_from_an_empty_folder_takes_the_archives_and_the_plain_test_sets(tmp_path):
    waiting = pending_downloads(compose(["corpus=wmt14_deen"]).corpus, tmp_path)
    archives = [f"training-parallel-{name}.tgz" for name in ("europarl-v7", "commoncrawl", "nc-v9")]
    sets = [f"newstest{year}.{language}" for year in (2013, 2014) for language in ("de", "en")]
    assert list(waiting) == [*archives, *sets]
    assert sum(waiting.values()) == 657632379 + 918311367 + 80418416 + 385433 + 332974 + 399406 + 359898
    assert list(tmp_path.iterdir()) == []


def test_downloads_are_those_that_prepare_would_make(tmp_path, monkeypatch):
    files = wmt_files()
    mirror, data = tmp_path / "mirror", tmp_path / "data"
    mirror.mkdir()
    for name in ("training-parallel-nc-v9.zip", "dev.tgz"):  # not the first alternatives, but at hand
        (mirror / name).write_bytes(files[name])
    monkeypatch.setenv("MEMTRANS_MIRROR", str(mirror))
    downloads = data / "downloads" / "wmt14_deen"
    downloads.mkdir(parents=True)
    (downloads / "training-parallel-commoncrawl.tgz.part").write_bytes(b"1234567")
    with serving(files) as server:
        corpus = toy_wmt(files, server.root)
        waiting = pending_downloads(corpus, data)
        (downloads / "training-parallel-commoncrawl.tgz.part").unlink()
        prepare(corpus, data, 1)
        asked = {name for name, _ in server.asked}
    names = ["training-parallel-europarl-v7.tgz", "training-parallel-commoncrawl.tgz"]
    sizes = [len(files[name]) for name in names]
    assert waiting == dict(zip(names, [sizes[0], sizes[1] - 7], strict=True))
    assert asked == set(names)
    assert pending_downloads(corpus, data) == {}


def test_a_run_has_the_same_hash_before_and_after_its_corpus_is_prepared(tmp_path):
    config = compose(SMALL)
    foreseen = foresee(config.corpus, tmp_path)
    assert not foreseen.path.exists()
    assert foreseen.manifest["splits"]["train"] == {"pairs": 400}
    prepared = prepare(config.corpus, tmp_path, 1)
    assert plan_run(config, foreseen) == plan_run(config, prepared)
    assert foresee(config.corpus, tmp_path) == prepared
    assert pending_downloads(config.corpus, tmp_path) == {}


def test_local_corpus_is_counted(tmp_path):
    for split, lines in (("train", 7), ("valid", 2), ("test", 3)):
        for language in ("de", "en"):
            (tmp_path / f"{split}.{language}").write_text("x\n" * lines)
    given = [f"corpus.{split}={tmp_path / split}" for split in ("train", "valid", "test")]
    corpus = compose(["corpus=local", "corpus.source_lang=de", "corpus.target_lang=en", *given]).corpus
    assert foresee(corpus, tmp_path).manifest["splits"]["train"] == {"pairs": 7}
    assert pending_downloads(corpus, tmp_path) == {}


def test_the_demo_is_planned_without_torch(tmp_path):
    paths = [f"paths.{kind}={tmp_path / kind}" for kind in ("data", "runs", "results")]
    program = (
        "import sys, time; start = time.monotonic()\n"
        "from memtrans.configuration import CONFIGS\n"
        "from memtrans.planning import show_plan\n"
        "from memtrans.sweeping import plan_sweep\n"
        "from memtrans.sweeps_spec import load_sweeps\n"
        "sweep = load_sweeps(CONFIGS)['demo']\n"
        "show_plan(sweep.title, plan_sweep(sweep, sweep.seeds, sys.argv[1:])[0], None)\n"
        "assert 'torch' not in sys.modules\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program, *paths], cwd=REPOSITORY, capture_output=True, text=True, timeout=30
    )
    assert ran.returncode == 0, ran.stderr
    assert "Runs: 5 in 5 rows; 0 finished, 5 to run." in ran.stdout
    assert "Downloads: nothing." in ran.stdout
    assert "1.0 M" in ran.stdout  # 4 epochs of 19,000 pairs of 13 subwords
    assert not list(tmp_path.iterdir())


@pytest.fixture
def two_gpus(monkeypatch):
    """A machine of two GPUs that trains any model at 1,000 tokens/s; yields what was timed."""
    timed: list[warmup.Model] = []

    def measure(models, place):
        timed.extend(models)
        return [1000.0] * len(models)

    monkeypatch.setattr(planning, "find_device", lambda: Place("Toy GPU", 2))
    monkeypatch.setattr(warmup, "_measure", measure)
    return timed


def test_hours_by_hand(tmp_path, two_gpus):
    """24 runs of 19.7 million tokens at 800 real tokens/s are 6.83 hours each; 12 share a GPU, all run at once."""
    text = plan(sweep_configs("multi30k", tmp_path))
    assert "14 GPU-hours; 7 h on 2 x Toy GPU, 24 at a time" in text
    row = next(line for line in text.splitlines() if "MemTransformer 20" in line)
    assert [cell.strip() for cell in row.split("│")[2:-1]] == ["3 of 3", "19.7 M", "800", "7 h", "1.71"]
    assert "12 runs on a GPU" in text
    assert "Training will need a GPU" not in text
    assert len(two_gpus) == 8  # one model a row, not a seed


def test_base_models_have_a_gpu_each(tmp_path, two_gpus):
    """10 epochs x 4,508,785 pairs x 30 subwords at 970/s: 387.4 hours a run, 24 runs, 2 at a time."""
    text = plan(sweep_configs("wmt14_base", tmp_path))
    assert "9,296 GPU-hours; 194 days on 2 x Toy GPU, 2 at a time" in text
    assert "Downloads: 1.7 GB (training-parallel-europarl-v7.tgz 657.6 MB, " in text


def test_a_run_on_several_gpus_ends_sooner_and_costs_as_much(tmp_path, two_gpus):
    """One run of 387.4 hours on one GPU."""
    one = [next(iter(sweep_configs("wmt14_base", tmp_path)))]
    both = [next(iter(sweep_configs("wmt14_base", tmp_path, "launcher.gpus=2")))]
    assert "387 GPU-hours; 16 days on 2 x Toy GPU, 1 at a time" in plan(one)
    text = plan(both)
    assert "387 GPU-hours; 8 days on 2 x Toy GPU, 1 at a time" in text
    assert "on full batches x 0.97, times the 2 GPUs of a run" in text
    row = next(line for line in text.splitlines() if "1 of 1" in line)
    assert [cell.strip() for cell in row.split("│")[2:-1]] == ["1 of 1", "1,352.6 M", "1,940", "8 days", "387"]
    with pytest.raises(UserError, match="launcher.gpus=3: this machine has 2"):
        plan(sweep_configs("wmt14_base", tmp_path, "launcher.gpus=3"))


def test_language_models_are_timed_on_a_text_of_their_own_vocabulary(tmp_path, two_gpus):
    """200,000 updates x 60 rows x 150 words at 1,000/s, all of them real: 500 hours a run, twice that for one row."""
    text = plan(sweep_configs("lm_wikitext103", tmp_path))
    assert "39 in 13 rows; 0 finished, 39 to run." in text
    assert "21,000 GPU-hours" in text
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if "│" in line]
    assert ["RMT 10, BPTT 1", "3 of 3", "1,800.0 M", "1,000", "21 days", "1,500"] in lines
    assert ["Transformer-XL, cache 150 + RMT 10", "3 of 3", "3,600.0 M", "1,000", "42 days", "3,000"] in lines
    assert "tokens are updates x rows x segment; tokens/s are those of a short warm-up on full batches, before" in text
    assert "Downloads: nothing" not in text
    arguments, corpus = two_gpus[0]
    assert corpus["vocabulary"] == 267_735
    assert corpus["tokens"] > 40 * 60 * 150
    assert arguments[0] == "--arch"
    assert "--compile-layers" not in arguments
    assert arguments[len(arguments) - arguments[::-1].index("--task")] == "streaming_language_modeling"


def test_a_warm_up_is_remembered(tmp_path, two_gpus, monkeypatch):
    first = plan(sweep_configs("multi30k", tmp_path))
    assert plan(sweep_configs("multi30k", tmp_path)) == first
    assert len(two_gpus) == 8
    plan(sweep_configs("multi30k", tmp_path, "model.dropout=0.2"))
    assert len(two_gpus) == 16


def test_finished_and_half_trained_runs_cost_less(tmp_path, two_gpus):
    configs = sweep_configs("multi30k", tmp_path)
    runs = [plan_run(config, foresee(config.corpus, tmp_path / "data")) for config in configs]
    for run in runs[1:]:
        record(run.label, run=run.hash).save(tmp_path / "results" / "records")
    assert "24 in 8 rows; 23 finished, 1 to run." in plan(configs)
    assert "6.83 GPU-hours" in plan(configs)
    runs[0].folder.mkdir(parents=True)
    runs[0].log.write_text(
        '2026-01-01 00:00:00 | INFO | train_inner | {"epoch": 9, "update": 8.5, "loss": "4", "num_updates": "1500"}\n'
    )
    assert "3.41 GPU-hours" in plan(configs)
    record(runs[0].label, run=runs[0].hash).save(tmp_path / "results" / "records")
    text = plan(configs)
    assert "24 finished, 0 to run." in text
    assert "cost" not in text


def test_without_a_gpu_it_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(planning, "find_device", lambda: Place("4 CPU cores", 0))
    monkeypatch.setattr(warmup, "_measure", lambda models, place: [200.0] * len(models))
    text = plan(sweep_configs("wmt14_base", tmp_path))
    assert "Training will need a GPU, and there is none here: train.precision=amp." in text
    assert "timed on this CPU" in text
    assert "GPU-hours" not in text
    assert "GPU, and" not in plan(sweep_configs("wmt14_base", tmp_path, "train.precision=fp32"))


@pytest.mark.slow
def test_a_real_warm_up(tmp_path):
    """Three models after one another, one on packed batches, in two processes at once, as on a shared GPU."""
    configs = sweep_configs("demo", tmp_path, "train.precision=fp16", *SMALL)[:2]
    configs += sweep_configs("demo", tmp_path, "train.precision=fp16", "+train.packed=true", *SMALL)[1:2]
    runs = [plan_run(config, foresee(config.corpus, tmp_path / "data")) for config in configs]
    place = Place("a CPU", 0, side_by_side=2)
    found = rates([(run, 200) for run in runs], place)
    assert all(100 < rate < 1e6 for rate in found)
    assert {path.parent.name for path in tmp_path.rglob("*") if path.is_file()} == {"warmups"}
    start = time.monotonic()
    assert rates([(run, 200) for run in runs], place) == found
    assert time.monotonic() - start < 1


@pytest.mark.slow
def test_a_real_warm_up_of_language_models(tmp_path):
    """fairseq's own, and one that goes back through earlier segments; two processes make up their texts at once."""
    sizes = [f"corpus.sizes.{split}=2" for split in ("train", "valid", "test")]
    configs = sweep_configs("demo_lm", tmp_path, "train.precision=amp", *sizes)[1:]
    paths = [f"paths.{kind}={tmp_path / kind}" for kind in ("data", "runs", "results")]
    configs.append(compose(["corpus=demo_lm", "size=lm_demo", "variant=transformer_lm", "protocol=lm", *paths, *sizes]))
    runs = [plan_run(config, foresee(config.corpus, tmp_path / "data")) for config in configs]
    found = rates([(run, 200) for run in runs], Place("a CPU", 0, side_by_side=2))
    assert len(found) == 3
    assert all(100 < rate < 1e6 for rate in found)
    assert {path.parent.name for path in tmp_path.rglob("*") if path.is_file()} == {"warmups"}


@pytest.mark.slow
def test_a_model_that_cannot_train_is_one_line(tmp_path):
    config = sweep_configs("demo", tmp_path, "model.encoder_attention_heads=7", *SMALL)[1]
    run = plan_run(config, foresee(config.corpus, tmp_path / "data"))
    with pytest.raises(UserError, match="a warm-up of the models failed") as error:
        rates([(run, 200)], Place("a CPU", 0))
    assert "\n" not in str(error.value)
    assert "head" in str(error.value)
    assert not list(tmp_path.iterdir())
