"""The report: made from the results alone, whole, self-contained, and true to the records."""

import base64
import json
import os
import random
import re
import shutil
import subprocess
import sys
import zlib
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from make_analyses import attention_record, large_attention_record, large_lesion_record, lesion_record, subject
from make_records import curve

from memtrans.errors import UserError
from memtrans.records import load_all
from memtrans.report import maps
from memtrans.report.grids import Grid
from memtrans.report.texts import escape, latex, markdown
from memtrans.report.write import check, make, write

ROOT = Path(__file__).resolve().parent.parent
RESULTS, CONFIGS = ROOT / "results", ROOT / "configs"


class Page(HTMLParser):
    """What of a page a browser would load or follow, its ids, its embedded JSON, and its tables' first cells."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.data: dict[str, Any] = {}
        self.packed: dict[str, str] = {}  # by id, or a number
        self.open: list[str] = []
        self._in: tuple[str, str] | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.loaded += [values["src"]] if "src" in values else []
        if "href" in values:
            (self.links if tag == "a" else self.loaded).append(values["href"])
        self.ids += [values["id"]] if "id" in values else []
        self._in = None
        if tag == "script" and values.get("class") in ("data", "packed"):
            self._in = values["class"], values.get("id", str(len(self.packed)))

    def handle_data(self, data: str) -> None:
        if not self._in:
            return
        kind, name = self._in
        if kind == "data":
            self.data[name] = json.loads(data)
        else:
            self.packed[name] = zlib.decompress(base64.b64decode(data)).decode()
        self._in = None


def whole(text: str) -> str:
    """A page with all that it unpacks when asked to."""
    return text + "".join(content for name, content in Page(text).packed.items() if name.isdecimal())


@pytest.fixture(scope="module")
def made() -> dict[str, str]:
    return make(RESULTS, CONFIGS)


@pytest.fixture(scope="module")
def analysed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The committed results, with a record of attention and one of lesions beside them."""
    results = tmp_path_factory.mktemp("analysed") / "results"
    for name in ("records", "significance"):
        shutil.copytree(RESULTS / name, results / name)
    for name in ("paper.csv", "claims.yaml"):
        shutil.copy(RESULTS / name, results)
    attention_record().save(results)
    lesion_record().save(results)
    return results


def test_committed_report_is_up_to_date() -> None:
    check(RESULTS, CONFIGS)
    assert (RESULTS / "report/index.html").stat().st_size < 500_000


def test_page_loads_nothing_and_its_links_lead_somewhere(made: dict[str, str], analysed: Path) -> None:
    for text, results in ((made["index.html"], RESULTS), (make(analysed, CONFIGS)["index.html"], analysed)):
        text = whole(text)
        page = Page(text)
        assert [target for target in page.loaded if not target.startswith(("#", "data:"))] == []
        assert not re.search(r"url\((?!#)|@import|fetch\(|XMLHttpRequest", text)
        assert len(set(page.ids)) == len(page.ids)
        for link in page.links:
            if link.startswith("#"):
                assert link[1:] in page.ids
            elif not link.startswith("https://arxiv.org/"):
                assert (results / "report" / link).resolve().exists() or link in made
        assert not re.search(r"</?(?:None|undefined)|\{\{|\{%", text)


def test_every_run_is_one_click_away(made: dict[str, str]) -> None:
    links = set(Page(made["index.html"]).links)
    assert {f"../records/{record.run}.json" for record in load_all(RESULTS / "records")} <= links


def test_figures_come_with_their_numbers(made: dict[str, str]) -> None:
    data = Page(made["index.html"]).data["data-forest-multi30k-iwslt-full"]
    row = data["MemBottleneck 20"]
    assert row["published"] == pytest.approx(10.41 - 24.65)
    assert row["mean"] == pytest.approx(-2.72, abs=0.005)
    assert row["interval"][0] < min(row["seeds"].values()) < max(row["seeds"].values()) < row["interval"][1]


def test_the_same_results_make_the_same_report(made: dict[str, str]) -> None:
    assert make(RESULTS, CONFIGS) == made


def test_markdown_and_latex_say_the_same(made: dict[str, str]) -> None:
    for label in ("MemTransformer 20", "MemCtrl Shared 20", "RMT 10, BPTT 2"):
        row = next(line for line in made["REPORT.md"].splitlines() if line.startswith(f"| {label} |"))
        tex = next(line for line in made["tables.tex"].splitlines() if line.startswith(f"{label} &"))
        cells = [cell.strip() for cell in row.strip("|").split(" | ")]
        assert [cell.strip() for cell in tex.removesuffix("\\\\").split(" & ")] == [escape(cell) for cell in cells]
    assert made["tables.tex"].isascii()
    for begun in ("table", "tabular"):
        assert made["tables.tex"].count(f"\\begin{{{begun}}}") == made["tables.tex"].count(f"\\end{{{begun}}}") > 5


def test_missing_evidence_is_said_in_one_line_each(made: dict[str, str], tmp_path: Path) -> None:
    if not any((RESULTS / name).is_dir() for name in ("attention", "lesions")):
        assert "No attention record yet." in made["index.html"]
        assert "No lesion record yet." in made["index.html"]
    shutil.copytree(RESULTS / "records", tmp_path / "records")
    bare = make(tmp_path, CONFIGS)["index.html"]  # neither claims nor published numbers nor comparisons
    assert "Not compared sentence by sentence: MemTransformer 5 (multi30k)" in bare
    assert "over seeds, against" in bare
    assert "published Δ" not in bare


def test_continued_runs_are_in_the_report_with_their_evidence(made: dict[str, str], tmp_path: Path) -> None:
    results = tmp_path / "results"
    shutil.copytree(RESULTS / "records", results / "records")
    for name in ("paper.csv", "claims.yaml"):
        shutil.copy(RESULTS / name, results)
    parent = next(r for r in load_all(results / "records") if r.label == "MemTransformer 10" and r.size == "lm_small")
    config = {**parent.config, "parent": {"run": parent.run, "memory_tokens": 10, "start": "copies"}}
    config["model"] = {**config["model"], "memory_tokens": 20}
    label = "MemTransformer 10, continued with 20"
    replace(parent, run="c" * 16, setting="d" * 16, label=label, config=config).save(results / "records")
    text = make(results, CONFIGS)
    (row,) = (line for line in text["REPORT.md"].splitlines() if line.startswith(f"| {label} | copies |"))
    assert "+0.00" in row
    assert f"| {label} | {parent.parameters:,} |" in text["REPORT.md"], "its cost"
    assert "c" * 16 in whole(text["index.html"]), "its provenance"


def test_one_seed_of_each_row_is_a_table_without_tests(tmp_path: Path) -> None:
    for record in load_all(RESULTS / "records"):
        if record.seed == 1 and record.corpus.name == "wikitext2":
            record.save(tmp_path / "records")
    files = make(tmp_path, CONFIGS)
    assert "data-forest" not in "".join(Page(files["index.html"]).data)
    assert "No interval, no p: they need two seeds of a row" in files["REPORT.md"]
    assert "nothing" not in files["REPORT.md"]


def test_attention_and_lesions_are_shown(analysed: Path) -> None:
    files = make(analysed, CONFIGS)
    page = Page(files["index.html"])
    (model,) = page.data["data-maps"]
    assert model["label"] == "MemTransformer 2 <b>, seed 1, toy"
    maps = json.loads(page.packed[f"maps-{model['run']}"])
    first = maps["examples"][0]
    size = len(first["rows"]) * len(first["columns"])
    third = [maps["letters"].index(letter) for letter in first["weights"][2 * size : 3 * size]]
    assert third == [63 if i % 5 == 2 else 0 for i in range(size)]  # the head 2.1 looks at the third column
    assert maps["masses"]["encoder"]["read"]["heads"][0][1] == 0.21
    assert maps["masses"]["encoder"]["read"]["uniform"] == [0.5, 0.5]
    assert "<b>" not in re.sub(r"<script.*?</script>", "", whole(files["index.html"]), flags=re.DOTALL)
    folded = Page(whole(files["index.html"])).data
    assert folded[f"data-masses-{model['run']}-encoder"]["trained"]["read"]["mean"] == [0.22, 0.22]
    assert folded[f"data-lesions-{model['run']}"]["first 1 of 2 tokens"] == [-1.0, -2.0, -0.1]
    for line in (
        "| MemTransformer 2 <b> | toy, seed 1 | encoder |",
        "| process: sharp diagonal | encoder 2.2 | 0.24 [0.19, 0.29] | 0.22 |",
        "| first 0 of 2 tokens | 27.00 | −3.00 | – | 0.0010 | 0.0060 |",
        "Left out: decoder blind to memory: the decoder reads the sequence alone.",
    ):
        assert line in files["REPORT.md"]


def test_all_models_stand_side_by_side(analysed: Path) -> None:
    text = make(analysed, CONFIGS)["REPORT.md"]
    (masses,) = (line for line in text.splitlines() if line.startswith("| MemTransformer 2 <b> | toy, seed 1 | enc"))
    expected = ["0.27 (0.50)", "0.67 (0.50)", "0.22 (0.50)", "0.25 (0.50)", "0.23 (1.1)"]
    assert masses.strip("| ").split(" | ")[3:] == expected
    (lesions,) = (line for line in text.splitlines() if line.startswith("| MemTransformer 2 <b> | toy, seed 1 | 30"))
    assert lesions.strip("| ").split(" | ")[2:] == ["30.00 BLEU", "−3.00*", "−0.50", "−0.10", "−2.50*", "−0.40"]


def test_maps_that_do_not_fit_stay_in_the_records(analysed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memtrans.report.maps.ROOM", 10)
    page = Page(make(analysed, CONFIGS)["index.html"])
    (model,) = page.data["data-maps"]
    assert [example["sentence"] for example in json.loads(page.packed[f"maps-{model['run']}"])["examples"]] == [7]
    assert model["left"] == 1


def test_every_model_has_a_map_before_any_has_two(
    analysed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one that is there twice, with two seeds, the first seed comes first."""
    shutil.copytree(analysed, tmp_path / "results")
    others = {"b" * 16: ("Another", 1), "c" * 16: ("Another", 2)}
    for run, (label, seed) in others.items():
        attention_record(subject=subject(run=run, label=label, seed=seed)).save(tmp_path / "results")
    one = maps._packed_size(attention_record().examples[0])
    for fitting, expected in ((2, [1, 0, 1]), (3, [1, 1, 1]), (4, [2, 1, 1])):
        monkeypatch.setattr("memtrans.report.maps.ROOM", fitting * one)
        page = make(tmp_path / "results", CONFIGS)["index.html"]
        shown = {model["label"]: 2 - model["left"] for model in Page(page).data["data-maps"]}
        labels = ("Another, seed 1, toy", "Another, seed 2, toy", "MemTransformer 2 <b>, seed 1, toy")
        assert [shown.get(label, 0) for label in labels] == expected
        assert ("maps of Another, seed 2, toy" in page) == (fitting == 2)


def test_curves_are_shown_where_they_are(made: dict[str, str], analysed: Path, tmp_path: Path) -> None:
    shutil.copytree(analysed, tmp_path / "results")
    runs = [record for record in load_all(analysed / "records") if record.label in ("Transformer", "RMT 10, BPTT 2")]
    runs = [record for record in runs if record.corpus.name == "wikitext2"]
    for record in runs:
        losses = [9.0, 8.0, 7.0 + record.seed / 10, 7.5]
        curve(record.run, [1000, 2000, 2500, 3000], losses).save(tmp_path / "results")
    files = make(tmp_path / "results", CONFIGS)
    data = {name: data for name, data in Page(files["index.html"]).data.items() if name.startswith("data-curves")}
    (found,) = data.values()
    assert list(found) == ["Transformer", "RMT 10, BPTT 2"]
    assert found["Transformer"]["updates"] == [1000, 2000, 2500, 3000]
    assert found["Transformer"]["validation"]["2"] == [9.0, 8.0, 7.2, 7.5]
    assert "loss, bits per token" in files["index.html"]
    assert (
        files["REPORT.md"].count("| RMT 10, BPTT 2 | 3 | 7.500 ± 0.000 | 7.500 ± 0.000 | 7.200 ± 0.100 | 2,500 |") == 1
    )
    missing = len(load_all(analysed / "records")) - len(runs)
    assert f"Runs without a learning curve: {missing}." in files["REPORT.md"]
    if not (RESULTS / "curves").is_dir():
        assert "learning curves" not in made["index.html"]


def test_page_stays_small_with_many_models(analysed: Path, tmp_path: Path) -> None:
    """Six layers of eight heads with random maps, which pack worst; lesions of twenty tokens; and all runs' curves."""
    results = tmp_path / "results"
    shutil.copytree(analysed, results)
    rng = random.Random(0)
    for n in range(12):
        where = subject(run=f"{n:016x}", label=f"Model {n}", memory_tokens=20)
        large_attention_record(rng, where).save(results)
        large_lesion_record(rng, where).save(results)
        assert (results / "attention" / f"{n:016x}.json").stat().st_size < 400_000
    for record in load_all(results / "records"):
        updates = [60 * i for i in range(1, 51)]
        curve(record.run, updates, [round(9 - rng.random(), 3) for _ in updates]).save(results)
    page = make(results, CONFIGS)["index.html"]
    assert len(page.encode()) < 500_000
    assert len(Page(page).data["data-maps"]) > 1


def test_stale_report_is_told(analysed: Path) -> None:
    write(analysed, CONFIGS)
    check(analysed, CONFIGS)
    record = sorted((analysed / "records").iterdir())[0]
    content = record.read_text()
    record.write_text(re.sub(r'"train_seconds": [\d.]+', '"train_seconds": 1.5', content))
    with pytest.raises(UserError, match="is stale"):
        check(analysed, CONFIGS)
    record.write_text(content)
    check(analysed, CONFIGS)
    page = analysed / "report/index.html"
    page.write_text(page.read_text().replace('name="made-from" content="', 'name="made-from" content="00'))
    with pytest.raises(UserError, match="index.html is stale"):
        check(analysed, CONFIGS)


def test_command(tmp_path: Path) -> None:
    """In a process of its own, from another folder, without torch."""
    shutil.copytree(RESULTS / "records", tmp_path / "results/records")
    code = "import sys, scripts.report as r; r.main(); print(sorted({'torch', 'fairseq'} & set(sys.modules)))"
    command = [sys.executable, "-c", code, "--configs", str(CONFIGS)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["results/report/index.html", "[]"]
    (tmp_path / "empty").mkdir()
    for results, says in (("empty", "empty/records: no record"), ("x", "x: no such folder")):
        further = ["--results", results]
        done = subprocess.run([*command, *further], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 1
        assert done.stderr.startswith(f"error: {says}")
        assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "x").exists()


def test_text_is_escaped() -> None:
    grid = Grid("a", "50% of A_B", ("x & y", "n"), (("a|b\nc", "−1"),), ("`x_1`: <1 ± 2",))
    assert "| a\\|b<br>c | −1 |" in markdown(grid)
    tex = latex(grid)
    assert r"50\% of A\_B" in tex
    assert r"x \& y & n \\" in tex
    assert r"\texttt{x\_1}: $<$1 $\pm$ 2" in tex
    assert r"\begin{tabular}[t]{@{}l@{}}a$|$b \\ c\end{tabular} & $-$1 \\" in tex
