"""From a sweep to runs: what is planned, what is refused before anything is prepared, what is beyond a limit."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from make_records import record
from omegaconf import OmegaConf
from planned import planned, prepared

from memtrans import sweeping
from memtrans.configuration import CONFIGS, check_fit, compose
from memtrans.errors import UserError
from memtrans.runs import plan_run
from memtrans.sweeping import beyond_limits, plan_sweep
from memtrans.sweeps_spec import SweepRow, load_sweeps
from memtrans.training import ready


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


def test_what_needs_a_gpu_is_refused_before_it_starts(tmp_path, monkeypatch):
    monkeypatch.setattr(sweeping, "count_gpus", lambda: 0)
    monkeypatch.setattr(sweeping, "prepare", lambda *_: pytest.fail("prepared"))
    config = compose([*(f"paths.{name}={tmp_path / name}" for name in ("data", "runs", "results")), "size=base"])
    with pytest.raises(UserError, match="train.precision=amp needs a GPU, and there is none here"):
        sweeping.plan_runs([config])


def test_what_needs_a_gpu_is_refused_by_a_worker_without_one(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="train.precision=amp needs a GPU, and there is none here"):
        ready(planned(f"paths.runs={tmp_path}", "train.precision=amp"))


@pytest.mark.parametrize("wrong", ["seed=-1", "protocol.split=tst", "paths.results=file"])
def test_nothing_is_prepared_for_what_cannot_work(tmp_path, monkeypatch, wrong):
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    with pytest.raises(UserError):
        sweeping.plan_runs([compose([wrong])])
    assert not Path("data").exists()


def test_folders_that_may_not_be_written_are_refused_before_anything_is_prepared(tmp_path, monkeypatch):
    config = compose(["corpus=demo", "size=demo", *(f"paths.{name}={tmp_path / name}" for name in ("runs", "results"))])
    monkeypatch.setattr(sweeping, "prepare", lambda *_: pytest.fail("prepared"))
    monkeypatch.setattr("os.access", lambda folder, mode: Path(folder).name != "results")  # root may write anywhere
    with pytest.raises(UserError, match=f"{tmp_path / 'results'}: not a folder for runs or results .you may not write"):
        sweeping.plan_runs([config])
