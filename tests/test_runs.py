"""What a run is: its hash, the settings it refuses, and what its log says of it."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from make_records import record
from omegaconf import OmegaConf

from memtrans import sweeping
from memtrans.analysis.arguments import trained_run
from memtrans.configuration import CONFIGS, check_fit, compose
from memtrans.corpora import Prepared
from memtrans.errors import UserError
from memtrans.jobs import language_modeling, translation
from memtrans.ranks import Ranks
from memtrans.records import Record, load_all
from memtrans.runlog import last_error, read_progress
from memtrans.runs import OURS, Run, averaged_checkpoints, plan_run, train_arguments
from memtrans.sweeping import beyond_limits, plan_sweep
from memtrans.sweeps_spec import SweepRow, load_sweeps
from memtrans.training import rank_flags

REPOSITORY = Path(__file__).resolve().parent.parent
RECORDS = load_all(REPOSITORY / "results" / "records")
FINGERPRINT = "0" * 64


def prepared(fingerprint: str = FINGERPRINT, corpus: str = "demo", extra: tuple[str, ...] = ()) -> Prepared:
    splits = {split: {"pairs": 10} for split in ("train", "valid", "test", *extra)}
    manifest = {"corpus": corpus, "fingerprint": fingerprint, "source_lang": "de", "target_lang": "en"}
    return Prepared(Path("prepared"), manifest | {"splits": splits})


def planned(*overrides: str) -> Run:
    return plan_run(compose(overrides), prepared())


def planned_lm(*overrides: str) -> Run:
    splits = {split: {"tokens": 10, "words": 10} for split in ("train", "valid", "test")}
    manifest = {"corpus": "text", "fingerprint": FINGERPRINT, "task": "language_modeling", "splits": splits}
    config = compose(["size=lm_demo", "variant=transformer_xl", "protocol=lm", *overrides])
    return plan_run(config, Prepared(Path("prepared"), manifest))


# what was recorded stays valid


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.run)
def test_a_committed_record_bears_the_hash_of_its_config(record: Record):
    here = Path()
    run = Run(identity=record.config, label=record.label, data=here, runs=here, results=here, tracking={})
    assert (run.hash, run.setting) == (record.run, record.setting)
    assert (run.seed, record.config["variant"], record.config["size"]) == (record.seed, record.variant, record.size)


def test_the_multi30k_sweep_is_what_was_recorded():
    """So a change of a default that enters a run's identity cannot go unnoticed."""
    recorded = {(r.label, r.seed): r for r in RECORDS if r.corpus.name == "multi30k" and r.protocol == "full"}
    sweep = load_sweeps(CONFIGS)["multi30k"]
    configs, _ = plan_sweep(sweep, sweep.seeds, [])
    assert len(configs) == 24
    for config in configs:
        known = recorded[config.label, config.seed]
        corpus = prepared(known.corpus.fingerprint, "multi30k", tuple(config.corpus.extra_splits))
        assert plan_run(config, corpus).identity == known.config


def test_the_wikitext2_sweeps_are_what_was_recorded():
    """As far as they are recorded."""
    of_sweeps = [r for r in RECORDS if r.corpus.name == "wikitext2" and "parent" not in r.config]
    recorded = {(r.label, r.seed): r for r in of_sweeps if r.protocol == "lm"}
    planned = {}
    for name in ("lm_wikitext2", "lm_wikitext2_controls"):
        configs, _ = plan_sweep(load_sweeps(CONFIGS)[name], sorted({r.seed for r in of_sweeps}), [])
        planned |= {(config.label, config.seed): config for config in configs}
    assert recorded.keys() <= planned.keys()
    for key, known in recorded.items():
        manifest = {"corpus": "wikitext2", "fingerprint": known.corpus.fingerprint, "task": "language_modeling"}
        corpus = Prepared(Path("prepared"), manifest | {"splits": {"train": {}, "valid": {}, "test": {}}})
        assert plan_run(planned[key], corpus).identity == known.config


# identity


def test_the_same_config_has_the_same_hash_in_another_process():
    program = "from test_runs import planned; run = planned('variant=mem_ctrl', 'seed=7'); print(run.hash, run.setting)"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(REPOSITORY / "tests"), str(REPOSITORY), *sys.path])}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    run = planned("seed=7", "variant=mem_ctrl")
    assert done.stdout.split() == [run.hash, run.setting]


@pytest.mark.parametrize(
    "override",
    ["label=mine", "paths.data=/a", "paths.runs=/b", "paths.results=/c", "jobs=3", "sweep=demo"]
    + ["launcher=slurm", "launcher.gpus=4", "launcher.accumulate=2"]
    + ["tracking.tensorboard=true", "tracking.wandb=offline", "tracking.wandb_project=p"],
)
def test_what_cannot_change_a_result_does_not_change_the_hash(override):
    assert planned(override).hash == planned().hash


@pytest.mark.parametrize(
    "override",
    [f"{group}.{key}" for group in ("model", "train", "protocol") for key in compose()[group]]
    + ["+model.layernorm_embedding", "+train.patience"],
)
def test_any_other_value_makes_another_setting(override):
    group, _, key = override.lstrip("+").partition(".")
    old = compose()[group].get(key)
    new = {
        "precision": "fp16",
        "max_epoch": 6,
        "max_update": 100,
        "checkpoint": "last",
        "split": "valid",
        "extra_splits": "[valid]",
        "decoder_reads": "memory",
    }.get(key, "true" if old is False else "false" if old is True else "[0.9,0.99]" if key == "adam_betas" else 3)
    run, changed = planned(), planned(f"{override}={new}")
    assert changed.hash != run.hash
    assert changed.setting != run.setting


def test_another_corpus_makes_another_setting():
    other = plan_run(compose(), prepared(fingerprint="1" * 64))
    assert other.setting != planned().setting


def test_another_seed_is_another_run_of_the_same_setting():
    first, second = planned("seed=1"), planned("seed=2")
    assert first.hash != second.hash
    assert first.setting == second.setting
    assert first.setting != first.hash


def test_the_order_of_keys_does_not_matter():
    run = planned()
    turned = replace(run, identity=dict(reversed(run.identity.items())))
    assert turned.hash == run.hash


def test_a_run_is_read_back_by_its_worker(tmp_path):
    run = planned(f"paths.runs={tmp_path}", "label=\"A, B: 'c'\"")
    run.write()
    assert Run.read(run.folder) == run
    assert run.record() is None


def test_a_sweep_plans_what_train_would_be_told():
    sweep = load_sweeps(CONFIGS)["demo"]
    configs, refused = plan_sweep(sweep, (4, 5), ["sweep=demo", "jobs=2", "seeds=[4,5]", "train.lr=1e-3"])
    assert not refused
    assert [(c.seed, c.variant.name) for c in configs] == [(s, row.variant) for s in (4, 5) for row in sweep.rows]
    assert {c.train.lr for c in configs} == {1e-3}
    rows = [row for row in sweep.rows if row.memory_tokens]
    assert [c.model.memory_tokens for c in configs if "memory_tokens" in c.model] == 2 * [r.memory_tokens for r in rows]
    alone = compose(["variant=mem_ctrl", "model.memory_tokens=10", "seed=5", "train.lr=1e-3"])
    (swept,) = (c for c in configs if c.variant.name == "mem_ctrl" and c.seed == 5)
    assert plan_run(alone, prepared()).hash == plan_run(swept, prepared()).hash


def test_a_language_model_is_another_kind_of_run_on_a_stream():
    run = planned_lm()
    assert run.identity["corpus"] == {"name": "text", "fingerprint": FINGERPRINT, "task": "language_modeling"}
    assert run.label == "Transformer-XL"
    assert run.identity["model"]["mem_len"] == run.identity["protocol"]["segment"]["target"] == 32
    arguments = train_arguments(run)
    assert arguments[:3] == ["prepared/bin", "--task", "streaming_language_modeling"]
    for flag, value in (("--criterion", "streaming_nll"), ("--tokens-per-sample", "32"), ("--arch", "transformer_xl")):
        assert arguments[arguments.index(flag) + 1] == value
    assert not {"--source-lang", "--max-tokens"} & set(arguments)


@pytest.mark.parametrize("override", ["model.mem_len=16", "train.batch_size=7", "protocol.rows=1", "seed=2"])
def test_any_other_value_makes_another_language_model(override):
    assert planned_lm(override).hash != planned_lm().hash


# sweeps


@pytest.fixture
def toy_sweep():
    """Two rows that can be composed around one that cannot."""
    rows = [("transformer", ()), ("mem_transformer", ("model.memory_tokns=3",)), ("mem_ctrl", ("model.dropout=0.3",))]
    made = tuple(SweepRow(variant=variant, label=variant, overrides=overrides) for variant, overrides in rows)
    return replace(load_sweeps(CONFIGS)["demo"], rows=made)


def test_a_row_that_cannot_be_composed_stops_no_other(toy_sweep):
    configs, refused = plan_sweep(toy_sweep, (1, 2), [])
    assert [(c.variant.name, c.seed) for c in configs] == [
        (variant, seed) for seed in (1, 2) for variant in ("transformer", "mem_ctrl")
    ]
    assert list(refused) == ["mem_transformer"]
    assert "model.memory_tokns: no such setting; did you mean memory_tokens" in refused["mem_transformer"]


def test_a_row_of_another_task_stops_no_other(toy_sweep):
    rows = (*toy_sweep.rows[::2], SweepRow(variant="transformer_xl", label="XL"))
    configs, refused = plan_sweep(replace(toy_sweep, rows=rows), (1,), [])
    assert len(configs) == 2
    assert refused["XL"].startswith("corpus=demo is for translation, variant=transformer_xl is not; give variant=mem_b")


def test_a_row_s_own_value_of_a_wrong_kind_is_refused(toy_sweep):
    rows = (*toy_sweep.rows, SweepRow(variant="transformer", label="odd", overrides=("model.dropout=abc",)))
    _, refused = plan_sweep(replace(toy_sweep, rows=rows), (1,), [])
    assert refused["odd"].startswith("model.dropout=abc: expected a number")


def test_a_sweep_s_choices_are_those_of_its_command():
    """So that the options of its models may be given, and what the command line chooses stands."""
    config = compose(["sweep=lm_wikitext2", "train.batch_size=7", "model.mem_len=3", "size=lm_demo"])
    assert (config.corpus.name, config.protocol.name, config.size.name) == ("wikitext2", "lm", "lm_demo")
    assert (config.train.batch_size, config.model.mem_len) == (7, 3)
    for name, sweep in load_sweeps(CONFIGS).items():
        config = compose([f"sweep={name}"])
        assert (config.corpus.name, config.size.name, config.protocol.name) == (
            sweep.corpus,
            sweep.size,
            sweep.protocol,
        )
        check_fit(config)


def test_what_no_row_can_be_composed_with_is_said_once(toy_sweep):
    with pytest.raises(UserError, match="^train.lrr: no such setting; did you mean lr"):
        plan_sweep(toy_sweep, (1, 2), ["train.lrr=1"])


@pytest.mark.parametrize(
    ("seeds", "says"),
    [
        (1, r"seeds: expected a list, found 1; give them as seeds=\[1,2\]"),
        ("abc", "seeds: expected a list, found 'abc'"),
        (["a"], r"seeds\[0\]: expected a whole number, found 'a'"),
        ([1, 1], "seeds: expected each once, found 1, 1"),
        ([], "seeds: empty"),
    ],
)
def test_what_are_no_seeds_is_refused(toy_sweep, seeds, says):
    for given in (seeds, OmegaConf.create({"seeds": seeds}).seeds):
        with pytest.raises(UserError, match=says):
            plan_sweep(toy_sweep, given, [])


@pytest.mark.parametrize("override", ["model.dropout=0.1", "+model.dropout=0.1", "variant=transformer", "seed=1"])
def test_what_the_rows_decide_is_not_for_the_command_line(toy_sweep, override):
    with pytest.raises(UserError, match="the sweep's rows decide that|a sweep has several"):
        plan_sweep(toy_sweep, (1,), [override])


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        ([{"metric": "bleu", "value": 60.0, "signature": "version:1"}], []),
        ([{"metric": "bleu", "value": 59.9, "signature": "version:1"}], ["R, seed 1 with BLEU 59.90, below 60"]),
        ([{"metric": "perplexity", "value": 20.0, "unit": "word", "context": "all"}], []),
        (
            [{"metric": "perplexity", "value": 20.1, "unit": "word", "context": "all"}],
            ["R, seed 1 with perplexity 20.10, above 20"],
        ),
    ],
)
def test_what_is_beyond_the_limits_of_a_sweep_is_named(tmp_path, toy_sweep, scores, said):
    sweep = replace(toy_sweep, floor=60.0, ceiling=20.0)
    run = planned(f"paths.results={tmp_path}", "label=R")
    assert beyond_limits(sweep, [run]) == []
    record("R", run=run.hash, scores=[{"split": "test", "items": 5} | score for score in scores]).save(
        tmp_path / "records"
    )
    assert beyond_limits(sweep, [run]) == said
    assert beyond_limits(replace(sweep, floor=None, ceiling=None), [run]) == []


def test_a_run_of_one_sentence_of_a_large_corpus_is_some_of_an_epoch():
    assert 0 < translation.epochs({"bsz": {"sum": 1}}, {"pairs": 4_508_785}) < 1e-6
    assert 0 < language_modeling.epochs({"wpb": {"sum": 10}}, {"tokens": 103_227_021}) < 1e-6


# settings that cannot work


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["protocol.split=tst"], r"corpus demo has no split 'tst'; it has train, valid, test"),
        (["protocol.extra_splits=[newstest]"], "no split 'newstest'"),
        (["train.precision=fp15"], "train.precision=fp15: expected fp32, fp16, bf16, amp"),
        (["train.max_epoch=null"], "training would never end"),
        (["train.max_epoch=0"], "train.max_epoch=0: expected null or a whole number of at least 1"),
        (["train.max_update=-1"], "train.max_update=-1: expected null or a whole number of at least 1"),
        (["+train.seed=4"], "train.seed: not an option of its own; it follows from seed, corpus,"),
        (["+train.save_dir=x"], "train.save_dir: not an option of its own"),
        (["+model.num_workers=4"], "model.num_workers: not an option of its own"),
        (["protocol.draw_seed=null"], "protocol.draw_seed=None: expected a whole number"),
        (["protocol.checkpoint=averag"], "protocol.checkpoint=averag: expected best, last or 'average N'"),
        (["protocol.sentences=0"], "protocol.sentences=0: expected a whole number of at least 1"),
        (["protocol.lenpen=x"], "protocol.lenpen=x: expected a number"),
        (["protocol.max_len_a=true"], "protocol.max_len_a=True: expected a number"),
        (["seed=one"], "seed=one: expected a whole number from 0 to 4294967295"),
        (["seed=-1"], "seed=-1: expected"),
        (["seed='1'"], "seed=1: expected"),
        (["protocol.beam=null"], "protocol.beam=None: expected a whole number of at least 1"),
        (["tracking.wandb=offlin"], "tracking.wandb=offlin: expected null, offline or online"),
        (["size=base", "train.packed=false", "train.compile=true"], "train.compile=true is for packed batches"),
        (
            ["size=base", "train.compile=false", "train.cuda_graphs=true"],
            "train.cuda_graphs=true is for what is compiled",
        ),
        (["size=base", "train.criterion=cross_entropy"], "packed batches are for label_smoothed_cross_entropy"),
        (["size=base", "model.attention_dropout=0.1"], "model.attention_dropout=0.1: packed batches have none"),
    ],
)
def test_a_setting_that_cannot_work_is_refused(overrides, says):
    with pytest.raises(UserError, match=says) as error:
        planned(*overrides)
    assert "\n" not in str(error.value)


def test_a_language_model_has_nothing_to_pack():
    with pytest.raises(UserError, match="train.packed=true is for translation"):
        planned_lm("+train.packed=true")


@pytest.mark.parametrize("choice", ["average", "average 1", "average 0", "average -2", "average 2.5", "mean 3", 5])
def test_a_bad_choice_of_checkpoint_is_refused(choice):
    with pytest.raises(UserError, match="expected best, last or 'average N' with N at least 2"):
        averaged_checkpoints(choice)


def test_packed_batches_are_a_task_and_a_criterion():
    def option(arguments: list[str], flag: str) -> str:
        return arguments[arguments.index(flag) + 1]

    packed = train_arguments(planned("size=base"))
    assert option(packed, "--task") == "packed_translation"
    assert option(packed, "--criterion") == "packed_label_smoothed_cross_entropy"
    assert "--compile" in packed
    padded = train_arguments(planned("size=base", "train.packed=false"))
    assert option(padded, "--task") == "translation"
    assert option(padded, "--criterion") == "label_smoothed_cross_entropy"
    assert not {"--compile", "--packed"} & {*padded}
    assert "--packed" not in packed


def test_as_many_checkpoints_are_kept_as_are_averaged():
    def kept(choice: str) -> list[str]:
        arguments = train_arguments(planned(f"protocol.checkpoint={choice}", "train.save_interval_updates=5"))
        return [arguments[i + 1] for i, flag in enumerate(arguments) if flag.startswith("--keep")]

    assert kept("average 4") == ["4", "4"]
    assert kept("best") == kept("last") == ["1"]
    assert "--no-epoch-checkpoints" in train_arguments(planned("protocol.checkpoint=best"))


def test_what_the_harness_tells_fairseq_itself_is_no_option():
    """All that a training is told beside `model` and `train` is refused there."""
    flags = set()
    for run in (planned("protocol.checkpoint=average 2"), planned("train.precision=amp"), planned_lm()):
        own = {"--" + key.replace("_", "-") for group in ("model", "train") for key in run.identity[group]}
        task = run.job.task_arguments(run)
        flags |= {flag for flag in train_arguments(run) if flag.startswith("--") and flag not in (*own, *task[3:])}
    flags |= {flag for flag in rank_flags(Ranks(0, 2, 0, 2)) if flag.startswith("--")}
    assert {flag.removeprefix("--").replace("-", "_") for flag in flags} <= {*OURS}


def test_what_needs_a_gpu_is_refused_before_it_starts(tmp_path, monkeypatch):
    monkeypatch.setattr(sweeping, "count_gpus", lambda: 0)
    monkeypatch.setattr(sweeping, "prepare", lambda *_: pytest.fail("prepared"))
    config = compose([*(f"paths.{name}={tmp_path / name}" for name in ("data", "runs", "results")), "size=base"])
    with pytest.raises(UserError, match="train.precision=amp needs a GPU, and there is none here"):
        sweeping.plan_runs([config])


@pytest.mark.parametrize("wrong", ["seed=-1", "protocol.split=tst", "paths.results=file"])
def test_nothing_is_prepared_for_what_cannot_work(tmp_path, monkeypatch, wrong):
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    with pytest.raises(UserError):
        sweeping.plan_runs([compose([wrong])])
    assert not Path("data").exists()


# where it lies


@pytest.fixture
def written(tmp_path: Path) -> Run:
    run = planned(f"paths.runs={tmp_path / 'runs'}")
    run.write()
    return run


def test_a_run_is_what_was_written(written):
    assert Run.read(written.folder) == written


def test_a_run_that_was_moved_lies_where_it_is(written, tmp_path, monkeypatch):
    (tmp_path / "other").mkdir()
    (tmp_path / "link").symlink_to(written.folder.rename(tmp_path / "other" / written.hash))
    moved = replace(written, runs=tmp_path / "other")
    assert Run.read(tmp_path / "other" / written.hash) == moved
    assert Run.read(tmp_path / "link") == moved
    monkeypatch.chdir(moved.folder)
    assert Run.read(Path()) == moved


def test_what_is_no_folder_of_a_run_is_told_so(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "nothing", tmp_path / "file", tmp_path):
        with pytest.raises(UserError, match=r"not a run's folder \(it has no run.json\); give one of runs/"):
            Run.read(path)


def test_a_folder_with_another_name_is_not_the_run(written):
    copy = shutil.copytree(written.folder, written.runs / "copy")
    with pytest.raises(UserError, match=rf"copy: holds the run {written.hash}; give the folder that name"):
        Run.read(copy)


@pytest.mark.parametrize("content", ["", '{"identity": {', "[]", '{"label": "x"}', "\xff"])
def test_a_description_that_cannot_be_read_is_told_with_its_cure(written, content):
    (written.folder / "run.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match=r"run\.json: cannot be read .*; the command that made the run writes it again"):
        Run.read(written.folder)


def test_a_run_without_its_prepared_corpus_says_how_to_get_it_back(written):
    (written.folder / "trained").touch()
    with pytest.raises(
        UserError, match="its prepared corpus is not in prepared; .* scripts.prepare again with the same"
    ):
        trained_run(written.folder)


# what a log says


def inner(**given: object) -> str:
    stats = {"epoch": 2, "update": 1.5, "loss": "7.9", "wps": "16676.8", "wpb": "1667.68", "num_updates": "20"}
    stats |= given
    return f"2026-01-01 00:00:00 | INFO | train_inner | {json.dumps(stats)}\n"


def test_progress_is_the_newest_whole_line(tmp_path):
    log, train = tmp_path / "log.txt", {"max_update": None, "max_epoch": 3}
    assert read_progress(log, train) is None
    log.write_text("starting\n" + inner() + inner(update=2.25, num_updates="30") + inner(update=2.7)[:-20])
    progress = read_progress(log, train)
    assert progress is not None
    assert progress.fraction == 0.75
    assert progress.text == "epoch 2, update 30, loss 7.9, 16,677 tokens/s"
    assert (progress.epoch, progress.update, progress.loss, progress.tokens_per_second) == (2, 30, 7.9, 16676.8)
    assert progress.seconds_left == pytest.approx(1.0)  # 10 of 40 updates, 10 a second
    assert read_progress(log, {"max_update": 31, "max_epoch": 30}).fraction == pytest.approx(30 / 31)
    for line in ("translating test", "scoring test, xl_eval"):
        with log.open("a") as file:
            file.write(f"\n{line}\n")
        progress = read_progress(log, train)
        assert (progress.fraction, progress.text) == (1.0, line)


def test_a_failure_is_told_by_its_first_line_of_meaning(tmp_path):
    log = tmp_path / "log.txt"
    assert last_error(log) == "it wrote nothing"
    log.write_text("error: an earlier attempt\n")
    start = log.stat().st_size
    assert last_error(log) == "an earlier attempt"
    assert last_error(log, start) == "it wrote nothing"
    with log.open("a") as file:
        file.write("Traceback (most recent call last):\n  File 'a'\n    raise\nKeyError: 'first'\n\nDuring ...:\n\n")
        file.write("Traceback (most recent call last):\n  File 'b'\n\nlib.Problem: 1 thing\nmore of it\n  and more\n")
    assert last_error(log, start) == "lib.Problem: 1 thing"
    with log.open("a") as file:
        file.write("error: set the other thing\nwandb: syncing\n")
    assert last_error(log, start) == "set the other thing"
