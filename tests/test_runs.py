"""What a run is: its hash, and the settings it refuses."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from planned import FINGERPRINT, planned, planned_lm, prepared

from memtrans.configuration import CONFIGS, compose
from memtrans.corpora import Prepared
from memtrans.errors import UserError
from memtrans.jobs import language_modeling, translation
from memtrans.ranks import Ranks
from memtrans.records import Record, load_all
from memtrans.runs import OURS, Run, averaged_checkpoints, plan_run, train_arguments
from memtrans.sweeping import plan_sweep
from memtrans.sweeps_spec import load_sweeps
from memtrans.training import rank_flags

REPOSITORY = Path(__file__).resolve().parent.parent
RECORDS = load_all(REPOSITORY / "results" / "records")


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
    meant = {}
    for name in ("lm_wikitext2", "lm_wikitext2_controls"):
        configs, _ = plan_sweep(load_sweeps(CONFIGS)[name], sorted({r.seed for r in of_sweeps}), [])
        meant |= {(config.label, config.seed): config for config in configs}
    assert recorded.keys() <= meant.keys()
    for key, known in recorded.items():
        manifest = {"corpus": "wikitext2", "fingerprint": known.corpus.fingerprint, "task": "language_modeling"}
        corpus = Prepared(Path("prepared"), manifest | {"splits": {"train": {}, "valid": {}, "test": {}}})
        assert plan_run(meant[key], corpus).identity == known.config


# identity


def test_the_same_config_has_the_same_hash_in_another_process():
    program = "from planned import planned; run = planned('variant=mem_ctrl', 'seed=7'); print(run.hash, run.setting)"
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
        (["train.lr=-1"], "train.lr=-1: expected a number above 0"),
        (["train.lr=[1e-3,0]"], "train.lr=0: expected a number above 0"),
        (["train.update_freq=0"], "train.update_freq=0: expected a whole number of at least 1"),
        (["train.max_tokens=-1"], "train.max_tokens=-1: expected a whole number of at least 1"),
        (["+train.seed=4"], "train.seed: not an option of its own; it follows from seed, corpus,"),
        (["+train.save_dir=x"], "train.save_dir: not an option of its own"),
        (["+model.num_workers=4"], "model.num_workers: not an option of its own"),
        (["protocol.draw_seed=null"], "protocol.draw_seed=None: expected a whole number"),
        (["protocol.checkpoint=averag"], "protocol.checkpoint=averag: expected best, last or 'average N'"),
        (["protocol.sentences=0"], "protocol.sentences=0: expected a whole number of at least 1"),
        (["protocol.lenpen=x"], "protocol.lenpen=x: expected a number"),
        (["protocol.max_len_a=true"], "protocol.max_len_a=True: expected a number of at least 0"),
        (["protocol.max_len_b=-100"], "protocol.max_len_b=-100: expected a number of at least 0"),
        (["protocol.max_len_a=0", "protocol.max_len_b=0"], "translations would have no subword"),
        (["protocol.lenpen=nan"], "protocol.lenpen=nan: expected a number"),
        (["protocol.beam=true"], "protocol.beam=True: expected a whole number of at least 1"),
        (["variant=mem_transformer", "model.memory_tokens=null"], "model.memory_tokens=None: expected a whole number"),
        (["variant=mem_transformer", "model.memory_tokens=-1"], "model.memory_tokens=-1: expected a whole number"),
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
