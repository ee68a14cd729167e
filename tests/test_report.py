"""The report: made from the results alone, whole, self-contained, and true to the records."""

import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from make_analyses import attention_record, lesion_record

from memtrans.errors import UserError
from memtrans.records import load_all
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
        self.data: dict[str, object] = {}
        self.open: list[str] = []
        self._in: str | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.loaded += [values["src"]] if "src" in values else []
        if "href" in values:
            (self.links if tag == "a" else self.loaded).append(values["href"])
        self.ids += [values["id"]] if "id" in values else []
        self._in = values["id"] if tag == "script" and "id" in values else None

    def handle_data(self, data: str) -> None:
        if self._in:
            self.data[self._in] = json.loads(data)
            self._in = None


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
    row = data["MemBottleneck 20"]  # type: ignore[index]
    assert row["published"] == pytest.approx(10.41 - 24.65)
    assert row["mean"] == pytest.approx(-2.89, abs=0.005)
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


def test_attention_and_lesions_are_shown(analysed: Path) -> None:
    files = make(analysed, CONFIGS)
    page = files["index.html"]
    (model,) = Page(page).data["data-maps"]  # type: ignore[misc]
    assert model["label"] == "MemTransformer 2 <b>, seed 1, toy"
    first = model["examples"][0]
    assert first["weights"][1][0][2] == 1000  # the head 2.1 looks at the third column
    assert first["masses"]["1.2"]["read"] == [0.21, 0.5]
    assert "<b>" not in re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert (
        "| process: sharp diagonal | a row attends to itself | encoder 2.2 | 0.24 [0.19, 0.29] | 0.22 |"
        in files["REPORT.md"]
    )
    assert "| first 0 of 2 tokens | 27.00 | −3.00 | – | 0.0010 | 0.0060 |" in files["REPORT.md"]
    assert "Left out: decoder blind to memory: the decoder reads the sequence alone." in files["REPORT.md"]


def test_maps_that_do_not_fit_stay_in_the_records(analysed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memtrans.report.attention.ROOM", 10)
    (model,) = Page(make(analysed, CONFIGS)["index.html"]).data["data-maps"]  # type: ignore[misc]
    assert [example["sentence"] for example in model["examples"]] == [7]
    assert model["left"] == 1


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
    done = subprocess.run([*command, "--results", "x"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("error: x/records: no record")
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
