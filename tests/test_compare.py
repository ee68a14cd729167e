"""Two folders of results side by side: compared where they are alike, and told where they are not."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from make_records import BLEU, fields, record
from scipy import stats

from memtrans.comparing import Folder, compare_folders, only_in
from memtrans.errors import UserError
from memtrans.records import load_all

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = ROOT / "configs"


def folder(path: Path, *records) -> Folder:
    for one in records:
        one.save(path / "records")
    return Folder.load(path, CONFIGS)


def cells(one: Folder, other: Folder, label: str) -> dict[str, str]:
    (grid,) = compare_folders(one, other)
    (row,) = [row for row in grid.rows if row[0] == label]
    keys = ["model", "A", "A seeds", "B", "B seeds", "B − A", "p", "A Δ", "B Δ"]
    return dict(zip(keys, row, strict=True))


def test_rows_are_compared_by_label(tmp_path: Path) -> None:
    mine, yours = [30.0, 30.4, 30.1], [30.9, 31.3, 31.2]
    one = folder(
        tmp_path / "a", *(record("Transformer", s, v) for s, v in enumerate(mine, 1)), record("Mem 5", 1, 31.0)
    )
    other = folder(tmp_path / "b", *(record("Transformer", s, v) for s, v in enumerate(yours, 1)))
    row = cells(one, other, "Transformer")
    assert row["A"] == "30.17 ± 0.21"
    assert row["B − A"] == "+0.97"
    p = stats.ttest_ind(mine, yours, equal_var=False).pvalue
    assert float(row["p"]) == pytest.approx(p, abs=5e-5)
    assert only_in(one, other) == ["Mem 5 (toy, demo, paper)"]
    assert only_in(other, one) == []
    (grid,) = compare_folders(one, other)
    assert grid.notes[0].startswith("3 runs are in both by their hash; their scores differ by 1.10")


def test_runs_that_both_have_are_no_two_samples(tmp_path: Path) -> None:
    both = [record("Transformer", seed, 30.0 + seed / 10) for seed in (1, 2, 3)]
    one = folder(tmp_path / "a", *both)
    other = folder(tmp_path / "b", *both, record("Transformer", 4, 31.2), record("Transformer", 5, 31.0))
    row = cells(one, other, "Transformer")
    assert (row["B − A"], row["p"]) == ("+0.36", "–")


def test_scores_of_other_signatures_are_not_subtracted(tmp_path: Path) -> None:
    scores = [{"metric": "bleu", "value": 33.0, "split": "test", "items": 1000, "signature": f"{BLEU}|lc:yes"}]
    one = folder(tmp_path / "a", record())
    other = folder(tmp_path / "b", record(scores=scores))
    row = cells(one, other, "Transformer")
    assert (row["B − A"], row["p"]) == ("–", "–")
    (grid,) = compare_folders(one, other)
    assert "not compared, as they were not scored alike (signature)" in grid.notes[0]


def test_other_settings_are_named(tmp_path: Path) -> None:
    config = {"seed": 1, "model": {"memory_tokens": 0, "betas": [0.9, 0.98], "note": "wider"}}
    one = folder(tmp_path / "a", record())
    other = folder(tmp_path / "b", record(setting="ab" * 8, config=config))
    (grid,) = compare_folders(one, other)
    assert grid.notes[0] == "Transformer: other settings (model.note None against wider)."


def test_command(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "results/records", tmp_path / "mine/records")

    def run(*folders: object) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "scripts.compare", *map(str, folders)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)

    done = run("results", tmp_path / "mine")
    assert done.returncode == 0, done.stderr
    translated = sum(r.corpus.name == "multi30k" for r in load_all(ROOT / "results/records"))
    assert f"{translated} runs are in both by their hash; their scores differ by 0.00 at the most." in done.stdout
    assert (
        "| MemTransformer 10 | 41.23 ± 0.52 | 3 | 41.23 ± 0.52 | 3 | +0.00 | – | −0.18 ± 0.68 | −0.18 ± 0.68 |"
        in done.stdout
    )
    assert "| MemTransformer 20, continued with 40 | 42.35 | 1 | 42.35 | 1 | +0.00 | – | +0.64 | +0.64 |" in done.stdout
    for other, says in (
        (ROOT / "configs", "no record; give a folder of results"),
        (tmp_path / "none", "no such folder"),
    ):
        done = run("results", other)
        assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
        assert says in done.stderr


def test_nothing_in_common_is_an_error(tmp_path: Path) -> None:
    one = folder(tmp_path / "a", record())
    other = folder(tmp_path / "b", record(corpus={**fields()["corpus"], "name": "other"}))
    with pytest.raises(UserError, match="no table in common"):
        compare_folders(one, other)
