"""Tables follow from the records alone, and never average or compare what is not alike."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from make_records import BLEU, CHRF, digest, fields, perplexity, record
from toy_project import PAPER, SWEEP, add, cells, text, trained, write_project

from memtrans.errors import UserError
from memtrans.tables import build_tables, render, summarise
from memtrans.tables.paper import COLUMNS

CPU = {"device": "cpu", "devices": 1, "cpu": "Some CPU", "cpus": 2, "runs_per_device": 1}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return write_project(tmp_path, PAPER)


def test_statistics_by_hand() -> None:
    three = summarise({1: 2.0, 2: 4.0, 3: 9.0})
    assert three is not None
    assert (three.mean, three.n) == (5.0, 3)
    assert three.spread == pytest.approx(13**0.5)  # (9 + 1 + 16) / 2
    one = summarise({7: 2.0})
    assert one is not None
    assert (one.mean, one.spread, one.n) == (2.0, None, 1)
    assert summarise({}) is None


def test_paired_differences_by_hand() -> None:
    paired = summarise({1: 3.0, 2: 5.0, 4: 100.0}, baseline={1: 1.0, 2: 4.0, 3: -50.0})
    assert paired is not None
    assert (paired.mean, paired.n) == (1.5, 2)  # of 2 and 1: seeds 3 and 4 have no partner
    assert paired.spread == pytest.approx(0.5**0.5)
    assert summarise({1: 3.0}, baseline={2: 1.0}) is None


GOLDEN = f"""# Results

Made by `python -m scripts.tabulate` from the records and `paper.csv` beside this file; not written by hand.

## Toy table

Corpus toy, size demo, protocol paper.

| model              |         BLEU |  chrF |  seeds |         Δ Transformer |        paper | measured − paper |  paper Δ | parameters | tokens/s | GPU-hours |
| ------------------ | -----------: | ----: | -----: | --------------------: | -----------: | ---------------: | -------: | ---------: | -------: | --------: |
| Transformer        | 30.50 ± 0.71 | 50.50 | 2 of 3 |              baseline |        24.65 |            +5.85 | baseline |  1,234,567 |    2,000 |      4.00 |
| MemTransformer 10  | 30.17 ± 1.04 | 50.17 | 3 of 3 | −0.75 ± 0.35 (2 of 3) | 25.07 ± 0.10 |            +5.10 |    +0.42 |  1,234,567 |    2,000 |      6.00 |
| MemCtrl 20, pre-LN |            – |     – | 0 of 3 |                     – |            ? |                – |        ? |          – |        – |         – |
| Extra              |        12.00 | 32.00 |      1 |                −18.00 |            – |                – |        – |  1,234,567 |    2,000 |         – |

- BLEU: test, 1,000 sentences; `{BLEU}`; chrF: `{CHRF}`; corpus fingerprint `{digest("toy")[:12]}`.
- ±: sample standard deviation over seeds; none for one seed. Δ Transformer: mean difference to the Transformer of the same seed, trained and decoded alike, ± its sample standard deviation over the pairs; in brackets how many pairs, where a seed lacks one.
- Paper's values, from one secondary text only: a book, page 1.
- Hardware: 2 × NVIDIA H200 (Some CPU, 16 cores) (5 runs); Some CPU, 2 cores (1 run).
- Commit: 0123456789ab (5 runs); abcdef0-dirty (1 run).
- Checkpoint evaluated: average of 5.
- tokens/s: target tokens per second of training, mean over seeds; runs that shared a device shared its speed. GPU-hours: time in training steps × devices, of a shared device the share, summed over seeds; validation, saving and scoring come on top.
- –: none, or not measured. ?: not known here.
"""  # noqa: E501


def test_golden(project: Path) -> None:
    for seed, bleu in ((1, 30.0), (2, 31.0)):
        add(project, "Transformer", seed, bleu)
    for seed, bleu in ((1, 29.0), (2, 30.5), (3, 31.0)):
        add(project, "MemTransformer 10", seed, bleu)
    add(project, "Extra", 1, 12.0, hardware=CPU, commit="abcdef0-dirty")
    assert text(project) == GOLDEN


def test_sweep_without_records_is_shown_as_missing_beside_the_paper(project: Path) -> None:
    made = text(project)
    assert "Not measured yet" in made
    row = cells(made, "MemTransformer 10")
    assert row["seeds"] == "0 of 3"
    assert row["paper"] == "25.07 ± 0.10"
    assert {row[head] for head in ("BLEU", "Δ Transformer", "measured − paper", "tokens/s", "GPU-hours")} == {"–"}
    assert " 0.00" not in made


def test_sweep_without_records_and_without_published_numbers_has_no_table(project: Path) -> None:
    (project / "results/paper.csv").write_text(",".join(COLUMNS) + "\n")
    assert "No record yet" in text(project)
    add(project)
    row = cells(text(project), "Transformer")
    assert not {"paper", "measured − paper"} & row.keys()


def test_paper_of_another_corpus_is_never_subtracted(project: Path) -> None:
    other = SWEEP.replace("/corpus: toy", "/corpus: other").replace("name: toy", "name: other")
    (project / "configs/sweep/other.yaml").write_text(other + "  paper: {corpus: toy, size: demo}\n")
    add(project, "MemTransformer 10", 1, 40.0, corpus={**fields()["corpus"], "name": "other"})
    row = cells(text(project), "MemTransformer 10")
    assert row["paper, toy demo"] == "25.07 ± 0.10"
    assert row["paper Δ, toy demo"] == "+0.42"
    assert "measured − paper" not in row
    assert "not of this corpus" in text(project)


def test_papers_values_under_another_protocol_are_marked(project: Path) -> None:
    add(project, protocol="full")
    assert "belong to its own protocol, not to full" in text(project)


def test_different_settings_of_one_label_stay_apart(project: Path) -> None:
    add(project, "Transformer", 1, 10.0)
    add(project, "MemTransformer 10", 1, 20.0)
    add(project, "MemTransformer 10", 2, 30.0, setting=digest("another learning rate"))
    made = text(project)
    first, second = digest("MemTransformer 10")[:8], digest("another learning rate")[:8]
    assert cells(made, f"MemTransformer 10 [setting {first}]")["BLEU"] == "20.00"
    assert cells(made, f"MemTransformer 10 [setting {second}]")["BLEU"] == "30.00"
    assert "25.00" not in made
    assert "**Warning.** MemTransformer 10 has records of 2 settings" in made


def test_baselines_that_cannot_be_told_apart_give_no_difference(project: Path) -> None:
    add(project, "Transformer", 1, 10.0)
    add(project, "Transformer", 2, 20.0, setting=digest("another"))
    add(project, "MemTransformer 10", 1, 20.0)
    made = text(project)
    assert cells(made, "MemTransformer 10")["Δ Transformer"] == "–"
    assert "for MemTransformer 10: several Transformer rows have the same training and decoding settings." in made


OTHER_SIGNATURE = [{**score, "signature": score["signature"].replace("13a", "zh")} for score in fields()["scores"]]
OTHER_SPLIT = [{**score, "split": "valid"} for score in fields()["scores"]]


@pytest.mark.parametrize(
    ("changes", "differs"),
    [
        ({"scores": OTHER_SIGNATURE}, "signature"),
        ({"scores": OTHER_SPLIT}, "split"),
        ({"corpus": {**fields()["corpus"], "fingerprint": digest("cleaned otherwise")}}, "corpus"),
    ],
)
def test_different_evidence_is_marked_and_never_mixed(project: Path, changes: dict[str, Any], differs: str) -> None:
    add(project, "Transformer", 1, 10.0)
    add(project, "Transformer", 2, 10.0)
    add(project, "MemTransformer 10", 1, 20.0)
    add(project, "MemTransformer 10", 2, 20.0, **changes)
    made = text(project)
    assert f"**Warning.** Not all rows compare: they differ in {differs}. [a] {differs} `" in made
    rows = [cells(made, f"MemTransformer 10 [{mark}]") for mark in "ab"]
    assert sorted(row["Δ Transformer"] for row in rows) in (["+10.00", "–"],)
    assert [row["seeds"] for row in rows] == ["1 of 3", "1 of 3"]


def test_one_seed_twice_is_refused(project: Path) -> None:
    add(project, "Transformer", 1)
    add(project, "Transformer", 1, run=digest("again"))
    with pytest.raises(UserError, match="both are 'Transformer', seed 1"):
        text(project)


def test_seeds_beyond_the_plan_are_counted_apart(project: Path) -> None:
    for seed in (2, 3, 9):
        add(project, "Transformer", seed)
    assert cells(text(project), "Transformer")["seeds"] == "2 of 3 + 1"


def test_speed_is_not_averaged_over_different_hardware(project: Path) -> None:
    add(project, "Transformer", 1)
    add(project, "Transformer", 2, hardware=CPU)
    row = cells(text(project), "Transformer")
    assert row["tokens/s"] == "mixed hardware"
    assert row["GPU-hours"] == "2.00"


def test_speed_is_not_averaged_over_runs_that_shared_it_with_more_and_with_fewer(project: Path) -> None:
    add(project, "Transformer", 1, hardware=CPU)
    add(project, "Transformer", 2, hardware=CPU)
    assert cells(text(project), "Transformer")["tokens/s"] not in ("mixed sharing", "–")
    add(project, "Transformer", 3, hardware=CPU | {"runs_per_device": 12})
    assert cells(text(project), "Transformer")["tokens/s"] == "mixed sharing"


def further(split: str, bleu: float, **changes: Any) -> list[dict[str, Any]]:
    """The scores of a record with BLEU 30 on the test set, and `bleu` on one more split."""
    scores = fields(bleu=30.0)["scores"]
    return [*scores, {**scores[0], "split": split, "items": 500, "value": bleu, **changes}]


def test_further_scores_have_a_table_of_their_own_with_paired_differences(project: Path) -> None:
    for seed, bleu in ((1, 11.0), (2, 12.0)):
        add(project, "Transformer", seed, scores=further("news", bleu))
    for seed, bleu in ((1, 11.5), (2, 13.5), (3, 50.0)):
        add(project, "MemTransformer 10", seed, scores=further("news", bleu))
    add(project, "Other", 1, scores=further("news", 20.0), **trained("Other", beam=1))
    made = text(project)
    assert "### Further scores of the same runs\n" in made
    assert made.count("Toy table") == 1
    row, baseline = cells(made, "MemTransformer 10", table=1), cells(made, "Transformer", table=1)
    assert baseline == {"model": "Transformer", "news BLEU": "11.50 ± 0.71", "Δ news": "baseline"}
    assert row["news BLEU"] == "25.00 ± 21.67"
    assert row["Δ news"] == "+1.00 ± 0.71 (2 of 3)"  # of 0.5 and 1.5: seed 3 has no partner
    assert cells(made, "Other", table=1)["Δ news"] == "–"
    assert "- BLEU: news, 500 sentences;" in made


def test_further_scores_of_another_signature_are_never_compared(project: Path) -> None:
    add(project, "Transformer", 1, scores=further("news", 11.0))
    add(project, "MemTransformer 10", 1, scores=further("news", 12.0, signature=OTHER_SIGNATURE[0]["signature"]))
    made = text(project)
    row, baseline = cells(made, "MemTransformer 10", table=1), cells(made, "Transformer", table=1)
    assert [baseline[f"news BLEU [{i}]"] for i in (1, 2)] == ["11.00", "–"]
    assert [row[f"news BLEU [{i}]"] for i in (1, 2)] == ["–", "12.00"]
    assert [row[f"Δ news [{i}]"] for i in (1, 2)] == ["–", "–"]
    assert "- [2] BLEU: news, 500 sentences; `nrefs:1|case:mixed|eff:no|tok:zh" in made


def test_perplexity_has_tables_of_the_same_kind(project: Path) -> None:
    wiki = {"corpus": {**fields()["corpus"], "name": "wiki"}, "size": "lm"}
    add(project, "Transformer", 1, scores=[perplexity(30.0), perplexity(31.0, "valid")], **wiki)
    add(project, "MemTransformer 10", 1, scores=[perplexity(29.0)], **wiki)
    (project / "configs/sweep/toy.yaml").unlink()
    made = text(project)
    row = cells(made, "MemTransformer 10")
    assert (row["perplexity"], row["Δ Transformer"], row["paper"]) == ("29.00", "−1.00", "29.63 ± 0.06")
    assert (row["measured − paper"], row["paper Δ"]) == ("−0.63", "−0.32")
    assert "chrF" not in row
    assert "perplexity: test, 245,569 words; context: target 150, memory 150" in made
    assert "Lower is better" in made
    assert cells(made, "Transformer", table=1)["valid perplexity"] == "31.00"


XL = "xl_eval: target 64, memory 640, clamp 400, same length, 10 rows"
SEGMENT = "segment: target 150, memory as trained, 10 rows"


def language_model(label: str, value: float, train: dict | None = None, **model: Any) -> dict[str, Any]:
    """The fields of a language model's record, but for its label: a cache brings a further score."""
    config = {"arch": label, "model": {"decoder_layers": 6, "mem_len": 0} | model, "train": train or {"max_update": 10}}
    scores = [perplexity(value, context=SEGMENT), perplexity(value + 1, "valid", SEGMENT)]
    if model.get("mem_len"):
        scores[1:1] = [perplexity(value - 2, context=XL)]
    keys = {"setting": digest(label), "run": digest(f"{label} run"), "hypotheses": None}
    return {"scores": scores, "config": config, "size": "lm", **keys}


def test_language_models_compare_whatever_they_remember(project: Path) -> None:
    """A cache, memory and its place make the variant; so does what only fairseq's own model has to be told."""
    stock = {"decoder_input_dim": 8, "decoder_output_dim": 8, "share_decoder_input_output_embed": True}
    rmt = {"memory_tokens": 10, "memory_placement": "recurrent", "memory_every": 0, "memory_bptt": 2}
    rows = {
        "Transformer": language_model("Transformer", 30.0),
        "XL": language_model("XL", 25.0, mem_len=150),
        "RMT": language_model("RMT", 26.0, **rmt),
        "Bottleneck": language_model("Bottleneck", 50.0, memory_tokens=10, attention_window=10, memory_every=50),
        "Stock": language_model("Stock", 31.0, **stock),
        "Longer": language_model("Longer", 24.0, {"max_update": 20}, mem_len=150),
        "Wider": language_model("Wider", 24.0, decoder_ffn_embed_dim=7),
    }
    for label, given in rows.items():
        add(project, label, **given)
    (project / "configs/sweep/toy.yaml").unlink()
    made = text(project)
    found = {label: cells(made, label)["Δ Transformer"] for label in rows}
    assert found == {
        "Transformer": "baseline",
        "XL": "−5.00",
        "RMT": "−4.00",
        "Bottleneck": "+20.00",
        "Stock": "+1.00",
        "Longer": "–",
        "Wider": "–",
    }
    assert "No difference to the Transformer for Longer: the training or decoding settings differ from" in made
    assert "(train.max_update 20 against 10)" in made
    assert "(model.decoder_ffn_embed_dim 7 against unset)" in made
    assert f"perplexity: test, 245,569 words; context: {SEGMENT}; corpus fingerprint" in made
    assert "Lower is better." in made
    row = cells(made, "XL", table=1)
    assert row == {
        "model": "XL",
        "test, xl_eval": "23.00",
        "Δ test, xl_eval": "–",  # the baseline has no cache
        "valid, segment": "26.00",
        "Δ valid, segment": "−5.00",
    }
    assert cells(made, "Transformer", table=1)["test, xl_eval"] == "–"


def test_published_perplexities_are_of_the_language_models_own_protocol(project: Path) -> None:
    wiki = {"corpus": {**fields()["corpus"], "name": "wiki"}, "size": "lm"}
    add(project, "Transformer", 1, scores=[perplexity(30.0)], protocol="lm", **wiki)
    assert "The paper's values belong to its own protocol" not in text(project)
    add(project, "Transformer", 1, scores=[perplexity(30.0)], protocol="other", **wiki)
    assert "The paper's values belong to its own protocol, not to other: compare differences." in text(project)


def test_other_rows_come_in_natural_order() -> None:
    (table,) = build_tables([record(label) for label in ("Memory 20", "Memory 5", "A", "Transformer")], {}, {})
    assert [row.label for row in table.rows] == ["Transformer", "A", "Memory 5", "Memory 20"]


def test_order_of_records_does_not_matter() -> None:
    records = [record(label, seed, 10.0 + seed / 3) for label in ("Transformer", "A", "B") for seed in range(5)]
    assert render(build_tables(records, {}, {})) == render(build_tables(records[::-1], {}, {}))


def tabulate(project: Path, *options: str) -> subprocess.CompletedProcess[str]:
    places = ["--results", f"{project}/results", "--configs", f"{project}/configs"]
    command = [sys.executable, "-m", "scripts.tabulate", *places, *options]
    root = Path(__file__).parent.parent
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)


def test_command_writes_prints_and_checks(project: Path) -> None:
    add(project)
    path = project / "results/TABLES.md"
    stale = tabulate(project, "--check")
    assert stale.returncode == 1
    assert "TABLES.md is stale" in stale.stderr
    assert not path.exists()
    written = tabulate(project)
    assert (written.returncode, written.stdout) == (0, path.read_text())
    assert tabulate(project, "--check").returncode == 0
    add(project, "Transformer", 2)
    assert tabulate(project, "--check").returncode == 1


def test_command_names_a_broken_record_and_leaves_the_tables(project: Path) -> None:
    (project / "results/TABLES.md").write_text("old")
    (project / "results/records/bad.json").write_text("{")
    failed = tabulate(project)
    assert failed.returncode == 1
    assert failed.stderr.startswith("error: ")
    assert "bad.json" in failed.stderr
    assert failed.stderr.count("\n") == 1
    assert (project / "results/TABLES.md").read_text() == "old"


def test_missing_configs_are_one_line(project: Path) -> None:
    shutil.rmtree(project / "configs/sweep")
    failed = tabulate(project)
    assert failed.returncode == 1
    assert "no such folder" in failed.stderr


def test_nothing_heavy_is_imported() -> None:
    heavy = {"torch", "fairseq", "pandas", "numpy", "hydra", "rich"}
    code = "import sys, scripts.tabulate; print(*{name.split('.')[0] for name in sys.modules})"
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert not heavy & set(done.stdout.split())
