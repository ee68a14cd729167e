"""A project of a few files: variants, one sweep, published numbers, and no record."""

from pathlib import Path

from memtrans.tables.paper import COLUMNS

VARIANTS = {"transformer": "Transformer", "mem_transformer": "MemTransformer", "mem_ctrl": "MemCtrl"}
SWEEP = """
name: toy
title: Toy table
corpus: toy
size: demo
protocol: paper
seeds: [1, 2, 3]
rows:
  - {variant: transformer}
  - {variant: mem_transformer, memory_tokens: 10}
  - {variant: mem_ctrl, memory_tokens: 20, label: "MemCtrl 20, pre-LN", overrides: [model.pre_norm=true]}
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
