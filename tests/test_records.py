"""A number cannot exist without its evidence: what a record refuses, and how it lies on disk."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest
from make_records import digest, fields, perplexity, record

from memtrans.errors import UserError
from memtrans.files import write_text
from memtrans.records import Corpus, Hardware, Hypotheses, Record, Score, load_all


def written(folder: Path, content: dict[str, Any]) -> Path:
    path = folder / f"{content.get('run', 'nameless')}.json"
    path.write_text(json.dumps(content))
    return path


def required(cls: type) -> list[str]:
    return [field.name for field in dataclasses.fields(cls) if field.default is dataclasses.MISSING]


def cut(content: dict[str, Any], path: str) -> None:
    *parents, last = path.split(".")
    for name in parents:
        content = content[int(name)] if isinstance(content, list) else content[name]
    del content[last]


REQUIRED = [
    *required(Record),
    *(f"corpus.{name}" for name in required(Corpus)),
    *(f"hardware.{name}" for name in required(Hardware)),
    *(f"hypotheses.{name}" for name in required(Hypotheses)),
    *(f"scores.0.{name}" for name in [*required(Score), "signature"]),
    *(f"scores.1.{name}" for name in [*required(Score), "signature"]),
    *(f"scores.2.{name}" for name in [*required(Score), "unit", "context"]),
    *(f"versions.{name}" for name in ["python", "torch", "fairseq", "numpy", "sacrebleu", "memtrans"]),
]


def test_required_fields_are_all_but_hypotheses() -> None:
    assert set(required(Record)) == set(fields()) - {"hypotheses"}


@pytest.mark.parametrize("missing", REQUIRED)
def test_missing_field_is_one_line_with_file_and_field(tmp_path: Path, missing: str) -> None:
    content = fields()
    content["scores"].append(perplexity(29.5))
    assert written(tmp_path, content).exists()
    assert Record.load(written(tmp_path, content)).scores[2].unit == "word"
    cut(content, missing)
    path = written(tmp_path, content)
    with pytest.raises(UserError) as error:
        Record.load(path)
    message = str(error.value)
    assert message.startswith(f"{path}: ")
    assert "missing" in message
    assert missing.split(".")[-1] in message.removeprefix(f"{path}: ").split(": missing")[0]
    assert "\n" not in message


def test_missing_field_in_code_is_the_same_error() -> None:
    content = fields()
    del content["commit"]
    with pytest.raises(UserError, match="^commit: missing"):
        Record(**content)
    with pytest.raises(UserError, match="^signature: missing; bleu"):
        Score(metric="bleu", value=1.0, split="test", items=1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeed": 1}, "seeed: no such field of Record; did you mean seed"),
        ({"seed": "1"}, "seed: expected a whole number, found '1'"),
        ({"seed": True}, "seed: expected a whole number"),
        ({"parameters": 1.5}, "parameters: expected a whole number"),
        ({"parameters": 0}, "parameters: expected more than 0"),
        ({"train_seconds": float("nan")}, "train_seconds: expected a finite number"),
        ({"train_seconds": -1}, "train_seconds: expected more than 0"),
        ({"label": " "}, "label: expected non-empty text"),
        ({"commit": "unknown"}, "commit: expected a git commit"),
        ({"finished": "2024-05-01T12:00:00"}, "finished: expected a UTC time"),
        ({"finished": "2024-05-01T12:00:00+02:00"}, "finished: expected a UTC time"),
        ({"finished": "yesterday"}, "finished: expected a UTC time"),
        ({"setting": "XYZ"}, "setting: expected a hash"),
        ({"schema": 99}, "schema: expected 1, found 99"),
        ({"scores": []}, "scores: empty"),
        ({"scores": {"bleu": 30.0}}, "scores: expected a list"),
        ({"scores": [30.0]}, r"scores\[0\]: expected Score, found 30.0"),
        ({"scores": fields()["scores"][:1] * 2}, r"scores\[1\]: a second bleu on test"),
        ({"config": {"lr": float("inf")}}, "config: expected plain, finite"),
        ({"config": {"betas": (0.9, 0.98)}}, "config: expected plain, finite"),
        ({"config": {1: "one"}}, "config: expected non-empty text, found 1"),
        ({"hypotheses": {"file": "../x", "sha256": digest("x")}}, "hypotheses.file: expected a relative name"),
        ({"corpus": {**fields()["corpus"], "sources": {}}}, "corpus.sources: empty"),
        ({"corpus": {**fields()["corpus"], "sources": {"a": "b"}}}, r"corpus.sources\['a'\]: expected a sha256"),
    ],
)
def test_wrong_kind_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}"):
        Record(**{**fields(), **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"value": float("nan")}, "value: expected a finite number"),
        ({"value": float("inf")}, "value: expected a finite number"),
        ({"value": None}, "value: expected a finite number"),
        ({"value": 101.0}, "value: expected bleu between 0 and 100"),
        ({"items": 0}, "items: expected more than 0"),
        ({"metric": "blue"}, "metric: no such value 'blue'; did you mean bleu"),
        ({"signature": "13a"}, "signature: expected sacreBLEU's"),
        ({"unit": "word"}, "unit: bleu has none"),
        (
            {"metric": "perplexity", "signature": None, "context": "150", "unit": "letter"},
            "unit: no such value 'letter'",
        ),
        (
            {"metric": "perplexity", "signature": None, "context": "150", "unit": "word", "value": 0.5},
            "value: expected",
        ),
    ],
)
def test_score_without_its_meaning_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}"):
        Score(**{**fields()["scores"][0], **changes})


@pytest.mark.parametrize(
    "made",
    [
        record(),
        record(hypotheses=None, commit="0123456-dirty"),
        record(scores=[perplexity(29.951), perplexity(31.2, "valid")]),
    ],
)
def test_saved_record_comes_back_equal(tmp_path: Path, made: Record) -> None:
    path = made.save(tmp_path / "records")
    assert path == tmp_path / "records" / f"{made.run}.json"
    assert Record.load(path) == made
    assert load_all(path.parent) == [made]
    assert os.listdir(path.parent) == [path.name]
    text = path.read_text()
    assert list(json.loads(text)) == sorted(json.loads(text))
    made.save(path.parent)
    assert path.read_text() == text


def test_record_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        record().seed = 2  # type: ignore[misc]


def test_derived_numbers() -> None:
    made = record()  # 7.2 M tokens in an hour on two devices
    assert made.tokens_per_second == 2_000
    assert made.gpu_hours == 2
    assert (
        record(hardware={"device": "cpu", "devices": 1, "cpu": "Some CPU", "cpus": 2, "runs_per_device": 1}).gpu_hours
        is None
    )


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'"text"', b"\xff\xfe", b'{"schema": NaN}'])
def test_broken_file_is_one_error_that_names_it(tmp_path: Path, content: bytes) -> None:
    record(seed=1).save(tmp_path)
    broken = tmp_path / "broken.json"
    broken.write_bytes(content)
    with pytest.raises(UserError, match="broken.json: ") as error:
        load_all(tmp_path)
    assert "\n" not in str(error.value)


def test_file_named_after_another_run_is_refused(tmp_path: Path) -> None:
    path = record().save(tmp_path)
    path.rename(tmp_path / "0123456789.json")
    with pytest.raises(UserError, match="0123456789.json: run: the file is named after another run"):
        load_all(tmp_path)


def test_no_folder_has_no_records(tmp_path: Path) -> None:
    assert load_all(tmp_path / "nothing") == []


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "TABLES.md"
    write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "x" * 100_000 + "\ud800")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["TABLES.md"]
