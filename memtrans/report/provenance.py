"""Where the numbers come from: for every row its runs, their commits and checksums, and the resolved config."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from memtrans.files import checksum
from memtrans.records import Corpus, Record
from memtrans.report.findings import Findings

HAND_WRITTEN = ("paper.csv", "claims.yaml")  # of a folder of results


@dataclass(frozen=True)
class Setting:
    """A row: its runs, and the config that they share but for the seed, as YAML."""

    title: str
    label: str
    setting: str
    records: tuple[Record, ...]
    config: str


@dataclass(frozen=True)
class Provenance:
    """All settings, the corpora by fingerprint, and the checksums of what was written by hand."""

    settings: tuple[Setting, ...]
    corpora: tuple[Corpus, ...]
    written: Mapping[str, str]

    @classmethod
    def gather(cls, findings: Findings, results: Path) -> "Provenance":
        rows = [(found.table.title, row) for found in findings.tables for row in found.all_rows]
        corpora = {record.corpus.fingerprint: record.corpus for _, row in rows for record in row.records}
        settings = tuple(
            Setting(title, row.label, row.setting or "", row.records, _without_seed(row.records[0].config))
            for title, row in rows
        )
        paths = [results / name for name in HAND_WRITTEN if (results / name).exists()]
        return cls(settings, tuple(corpora.values()), {path.name: checksum(path)["sha256"] for path in paths})


def _without_seed(config: Mapping[str, Any]) -> str:
    shared = {key: value for key, value in config.items() if key != "seed"}
    return yaml.safe_dump(shared, default_flow_style=None, width=110)  # groups on one line where they fit
