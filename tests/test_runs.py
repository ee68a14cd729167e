"""What a run is: its hash, the settings it refuses, and what its log says of it."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from memtrans.configuration import CONFIGS, compose
from memtrans.corpora import Prepared
from memtrans.errors import UserError
from memtrans.records import Record, load_all
from memtrans.runlog import last_error, read_progress
from memtrans.runs import Run, averaged_checkpoints, plan_run, train_arguments
from memtrans.sweeping import plan_sweep, row_overrides
from memtrans.sweeps_spec import load_sweeps

REPOSITORY = Path(__file__).resolve().parent.parent
RECORDS = load_all(REPOSITORY / "results" / "records")
FINGERPRINT = "0" * 64


def prepared(fingerprint: str = FINGERPRINT, corpus: str = "demo", extra: tuple[str, ...] = ()) -> Prepared:
    splits = {split: {"pairs": 10} for split in ("train", "valid", "test", *extra)}
    manifest = {"corpus": corpus, "fingerprint": fingerprint, "source_lang": "de", "target_lang": "en"}
    return Prepared(Path("prepared"), manifest | {"splits": splits})


def planned(*overrides: str) -> Run:
    return plan_run(compose(overrides), prepared())


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
    assert len(sweep.rows) * len(sweep.seeds) == 24
    for row in sweep.rows:
        for seed in sweep.seeds:
            record = recorded[row.label, seed]
            config = compose(row_overrides(sweep, row, seed, []))
            corpus = prepared(record.corpus.fingerprint, "multi30k", tuple(config.corpus.extra_splits))
            assert plan_run(config, corpus).identity == record.config


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
    configs = plan_sweep(sweep, (4, 5), ["sweep=demo", "jobs=2", "seeds=[4,5]", "train.lr=1e-3"])
    assert [(c.seed, c.variant.name) for c in configs] == [(s, row.variant) for s in (4, 5) for row in sweep.rows]
    assert {c.train.lr for c in configs} == {1e-3}
    rows = [row for row in sweep.rows if row.memory_tokens]
    assert [c.model.memory_tokens for c in configs if "memory_tokens" in c.model] == 2 * [r.memory_tokens for r in rows]
    alone = compose(["variant=mem_ctrl", "model.memory_tokens=10", "seed=5", "train.lr=1e-3"])
    (swept,) = (c for c in configs if c.variant.name == "mem_ctrl" and c.seed == 5)
    assert plan_run(alone, prepared()).hash == plan_run(swept, prepared()).hash


# settings that cannot work


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["protocol.split=tst"], r"corpus demo has no split 'tst'; it has train, valid, test"),
        (["protocol.extra_splits=[newstest]"], "no split 'newstest'"),
        (["train.precision=fp15"], "train.precision=fp15: expected fp32, fp16, bf16, amp"),
        (["train.max_epoch=null"], "training would never end"),
        (["protocol.checkpoint=averag"], "protocol.checkpoint=averag: expected best, last or 'average N'"),
        (["protocol.sentences=0"], "protocol.sentences=0: expected a whole number of at least 1"),
        (["protocol.beam=null"], "protocol.beam=None: expected a whole number of at least 1"),
        (["tracking.wandb=offlin"], "tracking.wandb=offlin: expected null, offline or online"),
    ],
)
def test_a_setting_that_cannot_work_is_refused(overrides, says):
    with pytest.raises(UserError, match=says) as error:
        planned(*overrides)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("choice", ["average", "average 1", "average 0", "average -2", "average 2.5", "mean 3", 5])
def test_a_bad_choice_of_checkpoint_is_refused(choice):
    with pytest.raises(UserError, match="expected best, last or 'average N' with N at least 2"):
        averaged_checkpoints(choice)


def test_as_many_checkpoints_are_kept_as_are_averaged():
    def kept(choice: str) -> list[str]:
        arguments = train_arguments(planned(f"protocol.checkpoint={choice}", "train.save_interval_updates=5"))
        return [arguments[i + 1] for i, flag in enumerate(arguments) if flag.startswith("--keep")]

    assert kept("average 4") == ["4", "4"]
    assert kept("best") == kept("last") == ["1"]
    assert "--no-epoch-checkpoints" in train_arguments(planned("protocol.checkpoint=best"))


# what a log says


def inner(**stats: object) -> str:
    stats = {"epoch": 2, "update": 1.5, "loss": "7.9", "wps": "16676.8", "num_updates": "20"} | stats
    return f"2026-01-01 00:00:00 | INFO | train_inner | {json.dumps(stats)}\n"


def test_progress_is_the_newest_whole_line(tmp_path):
    log, train = tmp_path / "log.txt", {"max_update": None, "max_epoch": 3}
    assert read_progress(log, train) is None
    log.write_text("starting\n" + inner() + inner(update=2.25, num_updates="30") + inner(update=2.7)[:-20])
    progress = read_progress(log, train)
    assert progress is not None
    assert progress.fraction == 0.75
    assert progress.text == "epoch 2, update 30, loss 7.9, 16,677 tokens/s"
    assert read_progress(log, {"max_update": 31, "max_epoch": 30}).fraction == pytest.approx(30 / 31)
    with log.open("a") as file:
        file.write("\ntranslating test\n")
    assert read_progress(log, train).fraction == 1.0


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
