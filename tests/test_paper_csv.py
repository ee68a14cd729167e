"""The published numbers: as known, and refused where a cell lacks its provenance."""

from pathlib import Path

import pytest

from memtrans.errors import UserError
from memtrans.sweeps_spec import load_sweeps
from memtrans.tables import load_paper
from memtrans.tables.paper import COLUMNS


def test_paper_csv_of_the_project() -> None:
    paper = load_paper(Path(__file__).parent.parent / "results/paper.csv")
    base = {label: cell.value for label, cell in paper["wmt14_deen", "base", "bleu"].items()}
    assert base == {
        "Transformer": 24.65,
        "MemTransformer 5": None,
        "MemTransformer 10": 25.07,
        "MemTransformer 20": 25.58,
        "MemCtrl Shared 20": 25.73,
        "MemCtrl 20": 24.13,
        "MemBottleneck 10": 11.20,
        "MemBottleneck 20": 10.41,
    }
    small = paper["wmt14_deen", "small", "bleu"]
    assert set(small) == set(base)
    assert {cell.value for cell in small.values()} == {None}
    assert paper["wikitext103", "lm_base", "perplexity"]["MemTransformer 10"].value == 29.63


def test_the_published_rows_of_wikitext103_are_those_of_the_sweep() -> None:
    """Labels join the two, so they must be the same to the letter."""
    root = Path(__file__).parent.parent
    paper = load_paper(root / "results/paper.csv")["wikitext103", "lm_base", "perplexity"]
    sweeps = load_sweeps(root / "configs")
    assert {row.label for row in sweeps["lm_wikitext103"].rows} == set(paper)
    shared = {"Transformer", "MemTransformer 10", "Transformer-XL, cache 150", "RMT 10, BPTT 0", "RMT 10, BPTT 2"}
    assert shared < set(paper) & {row.label for row in sweeps["lm_wikitext2"].rows}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("toy,demo,T,bleu,high,,,a book,S,", "line 2: value: expected a number or an empty cell, found 'high'"),
        ("toy,demo,T,bleu,nan,,,a book,S,", "line 2: value: expected a finite number"),
        ("toy,demo,T,bleu,1.0,,,,S,", "line 2: source: missing"),
        ("toy,demo,T,bleu,1.0,,,a book,?,", "line 2: certainty: . does not fit value 1.0"),
        ("toy,demo,T,bleu,,,,a book,P,", "line 2: certainty: P does not fit value None"),
        ("toy,demo,T,blue,1.0,,,a book,S,", "line 2: metric: no such value 'blue'; did you mean bleu"),
        ("toy,demo,T,bleu,1.0", "line 2: expected 10 cells, found 5"),
        ("toy,demo,T,bleu,1.0,,,a book,S,\ntoy,demo,T,bleu,2.0,,,a book,S,", "line 3: label: a second T"),
    ],
)
def test_bad_line_of_paper_csv_is_named(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "paper.csv").write_text(f"{','.join(COLUMNS)}\n{line}\n")
    with pytest.raises(UserError, match=message):
        load_paper(tmp_path / "paper.csv")
