"""A project of a few files: variants, one sweep, published numbers, and no record; and its tables."""

from pathlib import Path
from typing import Any

from make_records import digest, record

from memtrans.tables import tables_text
from memtrans.tables.paper import COLUMNS

VARIANTS = {"transformer": "Transformer", "mem_transformer": "MemTransformer", "mem_ctrl": "MemCtrl"}
SWEEP = """# @package _global_
defaults: [{override /corpus: toy}, {override /size: demo}, {override /protocol: paper}]
sweep:
  name: toy
  title: Toy table
  seeds: [1, 2, 3]
  rows:
    - {variant: transformer}
    - {variant: mem_transformer, memory_tokens: 10}
    - {variant: mem_ctrl, memory_tokens: 20, label: "MemCtrl 20, pre-LN", overrides: [model.pre_norm=true]}
"""
PAPER = """toy,demo,Transformer,bleu,24.65,,,"a book, page 1",S,
toy,demo,MemTransformer 10,bleu,25.07,0.10,3,"a book, page 1",S,
toy,demo,"MemCtrl 20, pre-LN",bleu,,,,a book,?,value not known here
wiki,lm,Transformer,perplexity,29.95,0.15,3,another book,R,
wiki,lm,MemTransformer 10,perplexity,29.63,0.06,3,another book,R,
"""


def write_configs(folder: Path, sweep: str = SWEEP) -> Path:
    for name in ("variant", "sweep"):
        (folder / name).mkdir(parents=True)
    for name, label in VARIANTS.items():
        (folder / f"variant/{name}.yaml").write_text(f"variant: {{name: {name}, label: {label}}}\n")
    (folder / "sweep/toy.yaml").write_text(sweep)
    return folder


def write_project(folder: Path, published: str, sweep: str = SWEEP) -> Path:
    """configs/ and results/, with the rows of `published` in results/paper.csv."""
    write_configs(folder / "configs", sweep)
    (folder / "results/records").mkdir(parents=True)
    (folder / "results/paper.csv").write_text(f"{','.join(COLUMNS)}\n{published}")
    return folder


def add(project: Path, *args: Any, **changes: Any) -> None:
    record(*args, **changes).save(project / "results/records")


def text(project: Path) -> str:
    return tables_text(project / "results", project / "configs")


def cells(markdown: str, label: str, table: int = 0) -> dict[str, str]:
    """The cells of the row `label` of the table number `table`, by head."""
    tables: list[list[list[str]]] = []
    inside = False
    for line in markdown.splitlines():
        if line.startswith("|"):
            if not inside:
                tables.append([])
            tables[-1].append([cell.strip() for cell in line.strip("|").split(" | ")])
        inside = line.startswith("|")
    head, _, *rows = tables[table]
    (found,) = [row for row in rows if row[0] == label]
    return dict(zip(head, found, strict=True))


def trained(label: str, tokens: int = 0, updates: int = 3000, beam: int = 5) -> dict[str, Any]:
    """The fields of a record whose config says how it was trained and decoded."""
    model = {"decoder_layers": 6, **({"memory_tokens": tokens, "decoder_reads": "all"} if tokens else {})}
    config = {"arch": label, "model": model, "train": {"max_update": updates}, "protocol": {"beam": beam}}
    return {"config": config, "setting": digest(f"{label} {config}"), "run": digest(f"{label} {config} run")}
