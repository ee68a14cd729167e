"""What a sweep is: the rows of one table and its seeds, read from `configs/sweep/*.yaml`.

The sweep runner trains what a `SweepSpec` lists and the tables show the same list, so neither can drift from the other.
Only PyYAML is imported: tables need of a sweep what stands in its file. To Hydra it is a config like any other, whose
`defaults` choose corpus, size and protocol, so that a command with `sweep=NAME` takes the options which these have.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from memtrans.errors import UserError, did_you_mean
from memtrans.strict import build, strict

CHOICES = ("corpus", "size", "protocol")  # which a sweep's `defaults` make
HEADER = "# @package _global_"


@strict
class SweepRow:
    """One row of a table: a variant, its memory tokens if any, further Hydra overrides, and the row's label."""

    variant: str
    label: str
    memory_tokens: int | None = None
    overrides: tuple[str, ...] = ()

    @property
    def own(self) -> frozenset[str]:
        """The settings, by dotted key, that this row alone has from its overrides."""
        return frozenset(override.partition("=")[0].lstrip("+") for override in self.overrides)


@strict
class PaperReference:
    """The table of the paper that a sweep on another corpus is read against."""

    corpus: str
    size: str


@strict
class SweepSpec:
    """One table: where it runs, with which seeds, and its rows in order. Labels are unique within it."""

    name: str
    title: str
    corpus: str
    size: str
    protocol: str
    seeds: tuple[int, ...]
    rows: tuple[SweepRow, ...] = ()
    rows_from: str | None = None  # another sweep, whose rows come before this one's own
    paper: PaperReference | None = None
    floor: float | None = None  # BLEU that every row must reach, where less means that something is broken
    ceiling: float | None = None  # the same for perplexity: more means that something is broken

    def __post_init__(self) -> None:
        for field in ("seeds", "labels"):
            values = self.seeds if field == "seeds" else [row.label for row in self.rows]
            if len(set(values)) < len(values):
                raise UserError(f"{field}: expected each once, found {', '.join(map(str, values))}")
        if not self.seeds:
            raise UserError("seeds: empty; a sweep needs at least one")


def row_label(row: Mapping[str, Any], variant_labels: Mapping[str, str]) -> str:
    """The label of a row: its own `label` if it has one, else the variant's and the number of memory tokens if any."""
    if row.get("label"):
        return str(row["label"])
    variant = row["variant"]
    if variant not in variant_labels:
        raise UserError(f"variant: no such variant {variant!r}; {did_you_mean(str(variant), variant_labels)}")
    tokens = row.get("memory_tokens")
    return f"{variant_labels[variant]} {tokens}" if tokens else variant_labels[variant]


def load_variant_labels(configs: Path) -> dict[str, str]:
    """`variant.label` of every `<configs>/variant/*.yaml`, by file name; names with a leading _ are shared pieces.

    Raises UserError for a file without one.
    """
    labels = {}
    for path in sorted((configs / "variant").glob("[!_]*.yaml")):
        content = _read_yaml(path)
        variant = content.get("variant") if isinstance(content, Mapping) else None
        if not isinstance(variant, Mapping) or not variant.get("label"):
            raise UserError(f"{path}: variant.label: missing; tables name rows by it, for example MemTransformer")
        labels[path.stem] = str(variant["label"])
    return labels


def load_sweeps(configs: Path) -> dict[str, SweepSpec]:
    """All sweeps of `<configs>/sweep/*.yaml` by name, with labels filled in and `rows_from` followed.

    Raises UserError naming the file and the field.
    """
    folder = configs / "sweep"
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; expected the sweep files there, give the folder of configs")
    labels = load_variant_labels(configs)
    own = {path.stem: _load_sweep(path, labels) for path in sorted(folder.glob("*.yaml"))}
    return {name: _with_inherited_rows(name, own, folder) for name in own}


def _load_sweep(path: Path, variant_labels: Mapping[str, str]) -> SweepSpec:
    fields = _fields(_read_yaml(path), path)
    if not path.read_text(encoding="utf-8").startswith(HEADER):  # a comment to YAML
        raise UserError(f"{path}: expected the first line {HEADER!r}, without which Hydra cannot compose it")
    if isinstance(fields.get("rows"), list):
        fields["rows"] = [_labelled(row, i, path, variant_labels) for i, row in enumerate(fields["rows"])]
    sweep = build(SweepSpec, fields, path)
    if sweep.name != path.stem:
        raise UserError(f"{path}: name: expected the file's own, {path.stem!r}, found {sweep.name!r}")
    if not sweep.rows and sweep.rows_from is None:
        raise UserError(f"{path}: rows: missing; list rows or name another sweep as `rows_from`")
    return sweep


def _fields(content: object, path: Path) -> dict[str, Any]:
    """What stands under `sweep`, and what `defaults` choose. Raises UserError for anything else, or a lack of these."""
    if not isinstance(content, Mapping) or content.keys() != {"defaults", "sweep"}:
        raise UserError(f"{path}: expected `defaults` and `sweep`, and no other section; rows have `overrides`")
    fields, listed = content["sweep"], content["defaults"]
    if not isinstance(fields, Mapping) or not isinstance(listed, list):
        raise UserError(f"{path}: expected a list as `defaults` and fields in `sweep`")
    lines = [line if isinstance(line, Mapping) else {line: None} for line in listed]
    chosen = {key: value for line in lines for key, value in line.items()}
    for group in CHOICES:
        if f"override /{group}" not in chosen:
            raise UserError(f"{path}: defaults: expected a line `- override /{group}: NAME`")
        if group in fields:
            raise UserError(f"{path}: sweep.{group}: it is chosen under `defaults`; leave it out here")
    for key in chosen:
        if str(key).removeprefix("override /") not in (*CHOICES, "variant"):
            raise UserError(f"{path}: defaults: {key}: rows would not have it; only {', '.join(CHOICES)} and variant")
    return {**fields, **{group: chosen[f"override /{group}"] for group in CHOICES}}


def _labelled(row: object, index: int, path: Path, variant_labels: Mapping[str, str]) -> object:
    """The row with its label filled in; what is not a row is left for the type check to refuse by name."""
    if not isinstance(row, Mapping) or not isinstance(row.get("variant"), str):
        return row
    try:
        return {**row, "label": row_label(row, variant_labels)}
    except UserError as error:
        raise UserError(f"{path}: rows[{index}].{error}") from None


def _with_inherited_rows(
    name: str, own: Mapping[str, SweepSpec], folder: Path, below: tuple[str, ...] = ()
) -> SweepSpec:
    sweep, path = own[name], folder / f"{name}.yaml"
    if sweep.rows_from is None:
        return sweep
    if sweep.rows_from not in own:
        known = did_you_mean(sweep.rows_from, own)
        raise UserError(f"{path}: rows_from: no such sweep {sweep.rows_from!r}; {known}")
    if name in below:
        raise UserError(f"{path}: rows_from: goes in a circle ({' -> '.join([*below, name])})")
    inherited = _with_inherited_rows(sweep.rows_from, own, folder, (*below, name))
    try:
        return replace(sweep, rows=inherited.rows + sweep.rows, rows_from=None)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _read_yaml(path: Path) -> object:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{path}: cannot be read as YAML: {' '.join(str(error).split())}") from None
