"""Which rows of a table are trained alike, which are not on purpose, and which go on from others."""

from pathlib import Path

import pytest
from make_records import digest, fields
from toy_project import PAPER, add, cells, text, trained, write_project

from memtrans.tables.recipe import difference_text


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return write_project(tmp_path, PAPER)


def test_difference_needs_a_baseline_trained_and_decoded_alike(project: Path) -> None:
    add(project, "Transformer", 1, 10.0, **trained("Transformer", updates=100))
    add(project, "MemTransformer 10", 1, 20.0, **trained("MemTransformer", 10))
    add(project, "MemTransformer 20", 1, 25.0, **trained("MemTransformer", 20))
    add(project, "Same", 1, 12.0, **trained("Same", 5, updates=100))
    add(project, "Greedy", 1, 13.0, **trained("Greedy", 5, updates=100, beam=1))
    made = text(project)
    rows = ("MemTransformer 10", "MemTransformer 20", "Same", "Greedy")
    assert [cells(made, label)["Δ Transformer"] for label in rows] == ["–", "–", "+2.00", "–"]
    start = "**Warning.** No difference to the Transformer for"
    cause = "the training or decoding settings differ from the baseline's"
    assert f"{start} MemTransformer 10, MemTransformer 20: {cause} (train.max_update 3000 against 100).\n" in made
    assert f"{start} Greedy: {cause} (protocol.beam 1 against 5).\n" in made
    assert made.count("**Warning.**") == 2


def test_each_row_finds_the_baseline_of_its_own_settings(project: Path) -> None:
    for updates, bleu in ((100, 10.0), (3000, 30.0)):
        add(project, "Transformer", 1, bleu, **trained("Transformer", updates=updates))
    add(project, "MemTransformer 10", 1, 11.0, **trained("MemTransformer", 10, updates=100))
    add(project, "MemCtrl 20", 1, 33.0, **trained("MemCtrl", 20))
    add(project, "Greedy", 1, 29.0, **trained("Greedy", 20, beam=1))
    made = text(project)
    rows = ("MemTransformer 10", "MemCtrl 20", "Greedy")
    assert [cells(made, label)["Δ Transformer"] for label in rows] == ["+1.00", "+3.00", "–"]
    assert (
        "for Greedy: the training or decoding settings differ from the baseline's (protocol.beam 1 against 5)" in made
    )


CONTROLS = """# @package _global_
defaults: [{override /corpus: toy}, {override /size: demo}, {override /protocol: paper}]
sweep:
  name: toy_controls
  title: Another table's controls
  seeds: [1]
  rows:
    - {variant: transformer, label: Longer, overrides: [train.max_update=3000]}
"""


def test_a_sweep_s_row_may_be_unlike_its_baseline_on_purpose(project: Path) -> None:
    """In what the sweep sets, and in nothing else; it stands in the table of the same corpus, size and protocol."""
    (project / "configs/sweep/toy_controls.yaml").write_text(CONTROLS)
    add(project, "Transformer", 1, 10.0, **trained("Transformer", updates=100))
    add(project, "Longer", 1, 12.0, **trained("Longer"))
    made = text(project)
    assert made.count("\n## ") == 1
    assert cells(made, "Longer")["Δ Transformer"] == "+2.00"
    assert cells(made, "Longer")["seeds"] == "1 of 1"
    assert "Not alike on purpose: Longer (train.max_update 3000 against 100)." in made
    assert "**Warning.**" not in made
    add(project, "Longer", 1, 13.0, **trained("Longer", beam=1))
    made = text(project)
    assert "No difference to the Transformer for Longer" in made
    assert "(protocol.beam 1 against 5)" in made


def test_a_continued_run_is_read_against_its_parent(project: Path) -> None:
    for seed, before, after in ((1, 20.0, 20.5), (2, 22.0, 22.7), (3, 21.0, None)):
        parent = digest(f"parent {seed}")
        add(project, "MemTransformer 10", seed, before, run=parent)
        if after:
            config = {**fields()["config"], "parent": {"run": parent, "memory_tokens": 10, "start": "new"}}
            config |= {"model": {"memory_tokens": 20}, "train": {"lr": 1e-4}}
            add(project, "MemTransformer 10, continued with 20", seed, after, config=config, updates=300)
    made = text(project)
    assert made.index("### Continued") > made.index("MemCtrl 20, pre-LN"), "not among the rows of the sweep"
    row = cells(made, "MemTransformer 10, continued with 20", table=1)
    assert row == {
        "model": "MemTransformer 10, continued with 20",
        "further tokens": "new",
        "BLEU": "21.60 ± 1.56",
        "seeds": "2",
        "Δ before": "+0.60 ± 0.14",
        "further updates": "300",
        "learning rate": "0.0001",
        "parameters": "1,234,567",
    }


def test_only_the_first_differing_settings_are_named() -> None:
    one = {"a": 1, "b": [0.9, 0.98], "c": None, "d": 1, "same": 7}
    assert difference_text(one, {"b": [0.9, 0.999], "c": 2, "d": 2, "e": 3, "same": 7}) == (
        "a 1 against unset, b [0.9, 0.98] against [0.9, 0.999], c None against 2, 2 more"
    )
