"""Sweep files: labels, inherited rows, and one clear line for what is wrong in them."""

from pathlib import Path

import pytest
from toy_project import SWEEP, VARIANTS, write_configs

from memtrans.errors import UserError
from memtrans.sweeps_spec import load_sweeps, load_variant_labels, row_label

PROJECT = Path(__file__).parent.parent / "configs"


@pytest.fixture
def configs(tmp_path: Path) -> Path:
    """A folder of configs with three variants and one sweep."""
    write_configs(tmp_path)
    (tmp_path / "variant/_shared.yaml").write_text("model: {memory_tokens: 10}\n")
    return tmp_path


def test_row_labels() -> None:
    assert row_label({"variant": "transformer"}, VARIANTS) == "Transformer"
    assert row_label({"variant": "mem_transformer", "memory_tokens": 10}, VARIANTS) == "MemTransformer 10"
    assert row_label({"variant": "mem_transformer", "memory_tokens": 10, "label": "Mine"}, VARIANTS) == "Mine"
    with pytest.raises(UserError, match="no such variant 'mem_transfomer'; did you mean mem_transformer"):
        row_label({"variant": "mem_transfomer"}, VARIANTS)


def test_sweep_inherits_rows_and_adds_its_own(configs: Path) -> None:
    inherits = "# @package _global_\n"
    inherits += "defaults: [{override /corpus: c}, {override /size: s}, {override /protocol: full}]\n"
    inherits += "sweep: {name: second, title: T, seeds: [1], rows_from: toy, "
    inherits += "rows: [{variant: mem_ctrl, memory_tokens: 5}]}\n"
    (configs / "sweep/second.yaml").write_text(inherits)
    second = load_sweeps(configs)["second"]
    assert [row.label for row in second.rows] == ["Transformer", "MemTransformer 10", "MemCtrl 20, pre-LN", "MemCtrl 5"]
    assert second.rows[2].overrides == ("model.pre_norm=true",)
    assert (second.seeds, second.corpus, second.size, second.protocol) == ((1,), "c", "s", "full")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("title: Toy table", "titel: Toy table", "titel: no such field of SweepSpec; did you mean title"),
        ("title: Toy table", "", "title: missing"),
        ("override /size", "size", "defaults: expected a line `- override /size: NAME`"),
        ("title: Toy table", "title: T\n  corpus: x", "sweep.corpus: it is chosen under `defaults`; leave it out here"),
        ("sweep:", "sweeps:", "expected `defaults` and `sweep`, and no other section; rows have `overrides`"),
        ("sweep:", "train: {max_update: 7}\nsweep:", "expected `defaults` and `sweep`, and no other section"),
        (
            "defaults: [",
            "defaults: [{override /launcher: slurm}, ",
            "defaults: override /launcher: rows would not have it",
        ),
        ("defaults: [", "defaults: [_self_, ", "defaults: _self_: rows would not have it; only corpus, size, protocol"),
        ("# @package _global_", "", "expected the first line '# @package _global_', without which Hydra"),
        ("defaults: [", "defaults: 3 # [", "expected a list as `defaults` and fields in `sweep`"),
        ("override /size: demo", "override /size: 3", "size: expected non-empty text, found 3"),
        ("seeds: [1, 2, 3]", "seeds: [1, two]", r"seeds\[1\]: expected a whole number, found 'two'"),
        ("seeds: [1, 2, 3]", "seeds: [1, 1]", "seeds: expected each once"),
        ("seeds: [1, 2, 3]", "seeds: []", "seeds: empty"),
        ("seeds:", "ceiling: low\n  seeds:", "ceiling: expected a finite number, found 'low'"),
        (
            "variant: transformer",
            "variant: tranformer",
            r"rows\[0\].variant: no such variant 'tranformer'; did you mean",
        ),
        ("variant: transformer", "varian: transformer", r"rows\[0\].varian: no such field of SweepRow"),
        ("memory_tokens: 10", "memory_tokens: ten", r"rows\[1\].memory_tokens: expected a whole number, found 'ten'"),
        ("variant: transformer", "variant: mem_transformer, memory_tokens: 10", "labels: expected each once"),
        ("name: toy", "name: toys", "name: expected the file's own, 'toy'"),
        ("seeds:", "rows_from: nothing\n  seeds:", "rows_from: no such sweep 'nothing'"),
        ("seeds:", "rows_from: toy\n  seeds:", "rows_from: goes in a circle"),
        ("rows:", "rows: [", "cannot be read as YAML"),
    ],
)
def test_bad_sweep_is_one_line_with_file_and_field(configs: Path, old: str, new: str, message: str) -> None:
    (configs / "sweep/toy.yaml").write_text(SWEEP.replace(old, new, 1))
    with pytest.raises(UserError, match=f"toy.yaml: {message}") as error:
        load_sweeps(configs)
    assert "\n" not in str(error.value)


def test_variant_without_a_label_is_refused(configs: Path) -> None:
    (configs / "variant/mem_ctrl.yaml").write_text("model: {}\n")
    with pytest.raises(UserError, match="mem_ctrl.yaml: variant.label: missing"):
        load_sweeps(configs)


def test_every_sweep_of_the_project_loads() -> None:
    assert {"Transformer", "MemTransformer"} <= set(load_variant_labels(PROJECT).values())
    for sweep in load_sweeps(PROJECT).values():
        assert "Transformer" in [row.label for row in sweep.rows], f"{sweep.name}: no baseline to compare with"
