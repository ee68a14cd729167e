"""Learning curves: small, strict files that follow from a run's log."""

import json
import math
import subprocess
import sys
from pathlib import Path
from statistics import fmean

import pytest
from make_records import curve
from places import REPOSITORY

from memtrans.curves import Curve, keep_curve, load_curves
from memtrans.errors import UserError
from memtrans.runs import Run
from memtrans.tracking import metrics


@pytest.fixture
def run(tmp_path: Path) -> Run:
    made = Run({"seed": 1}, "Row", data=tmp_path, runs=tmp_path, results=tmp_path / "results", tracking={})
    made.write()
    return made


def log(run: Run, part: str, losses: dict[int, float]) -> None:
    for update, loss in losses.items():
        metrics.append(run.metrics, {"time": 0.0, "part": part, "update": update, "loss": loss})


def of(run: Run) -> Curve:
    found = Curve.of(run)
    assert found
    return found


def test_short_logs_are_kept_as_they_are(run: Run):
    log(run, "train_inner", {20: 9.0, 40: 8.5})
    log(run, "valid", {25: 8.8, 50: 8.4})
    log(run, "train", {50: 8.9})  # a whole epoch's mean: neither of the two
    found = of(run)
    assert found.training.by_update == {20: 9.0, 40: 8.5}
    assert found.validation.by_update == {25: 8.8, 50: 8.4}


@pytest.mark.parametrize("lines", [61, 119, 120, 121, 7000])
def test_long_logs_become_means_of_equal_spans(run: Run, lines: int):
    losses = {20 * i: round(5 + math.sin(i), 3) for i in range(1, lines + 1)}
    log(run, "train_inner", losses)
    log(run, "valid", {100 * i: 12.345 for i in range(1, 401)})
    found = of(run)
    ends = found.training.updates
    assert 30 < len(ends) <= 60
    assert ends[-1] == 20 * lines, "the last update is there"
    assert len({after - before for before, after in zip(ends, ends[1:], strict=False)}) == 1
    for before, end, loss in zip(ends, ends[1:], found.training.losses[1:], strict=False):
        assert loss == pytest.approx(fmean(losses[u] for u in range(before + 20, end + 1, 20)), abs=6e-4)
    assert len(found.validation.updates) <= 150
    assert found.validation.updates[-1] == 40_000
    assert found.save(run.results).stat().st_size < 4_000


def test_a_continued_run_is_as_its_last_attempt_says(run: Run):
    log(run, "train_inner", {20: 9.0, 40: 8.5, 60: 8.0})
    log(run, "valid", {50: 8.4})
    log(run, "train_inner", {40: 8.6, 60: 8.1, 80: 7.7})  # from a checkpoint of update 30
    log(run, "valid", {50: 8.3, 100: 7.5})
    found = of(run)
    assert found.training.by_update == {20: 9.0, 40: 8.6, 60: 8.1, 80: 7.7}
    assert found.validation.by_update == {50: 8.3, 100: 7.5}


def test_losses_that_are_no_numbers_are_left_out(run: Run):
    log(run, "train_inner", {20: 9.0, 40: math.nan, 60: math.inf})
    assert of(run).training.by_update == {20: 9.0}
    assert of(run).validation.by_update == {}


def test_a_log_that_makes_no_curve_costs_a_run_nothing_else(run: Run, capsys):
    metrics.append(run.metrics, {"time": 0.0, "part": "valid", "update": 0, "loss": 1.0})
    keep_curve(run)
    assert capsys.readouterr().out.startswith("no learning curve was kept: ")
    assert not (run.results / "curves").exists()


def test_a_log_without_losses_has_no_curve(run: Run):
    assert Curve.of(run) is None
    metrics.append(run.metrics, {"time": 0.0, "part": "score", "update": 20, "value": 30.0})
    assert Curve.of(run) is None


def test_it_comes_back_as_it_was_written(run: Run):
    log(run, "train_inner", {20: 9.0})
    log(run, "valid", {25: 8.8})
    path = of(run).save(run.results)
    assert path == run.results / "curves" / f"{run.hash}.json"
    assert load_curves(run.results) == {run.hash: of(run)}
    assert load_curves(run.results / "nowhere") == {}
    path.rename(path.with_stem("0" * 16))
    with pytest.raises(UserError, match="named after another run"):
        load_curves(run.results)


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("schema", 2, "schema: expected 1, found 2"),
        ("run", "mine", "run: expected a hash"),
        ("unit", "nats", "unit: no such value 'nats'"),
        ("validation", None, "validation: expected"),
        ("training", {"updates": [20], "losses": []}, "training.losses: expected 1, one for each update, found 0"),
        ("training", {"updates": [20, 20], "losses": [1.0, 1.0]}, "training.updates: expected them to rise"),
        ("training", {"updates": [0], "losses": [1.0]}, "training.updates: expected them to rise from at least 1"),
        ("training", {"updates": [20], "losses": [None]}, r"training.losses\[0\]: expected a finite number"),
    ],
)
def test_what_is_wrong_is_refused_by_name(tmp_path: Path, field: str, value: object, says: str):
    path = curve("0123456789abcdef", [20], [9.0]).save(tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    with pytest.raises(UserError, match=says) as told:
        Curve.load(path)
    assert str(told.value).startswith(f"{path}: ")
    path.write_text("{")
    with pytest.raises(UserError, match=r"cannot be read as JSON .*scripts\.curves"):
        Curve.load(path)


def command(*arguments: object) -> subprocess.CompletedProcess:
    line = [sys.executable, "-m", "scripts.curves", *map(str, arguments)]
    return subprocess.run(line, cwd=REPOSITORY, capture_output=True, text=True, timeout=60)


def test_the_command_makes_it_again(run: Run):
    log(run, "train_inner", {20: 9.0})
    done = command(run.folder)
    assert (done.returncode, done.stdout) == (0, f"{run.results}/curves/{run.hash}.json\n")
    assert load_curves(run.results) == {run.hash: of(run)}
    assert "runs/<hash>" in command("--help").stdout


def test_the_command_tells_in_one_line_what_it_cannot_make(run: Run):
    for folder, says in ((run.results, "not a run's folder"), (run.folder, "no loss is logged there")):
        done = command(folder)
        assert done.returncode == 1
        assert says in done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert not (run.results / "curves").exists()
