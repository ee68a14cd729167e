"""The evidence of attention and lesions: complete or refused, read without torch, and what its numbers say."""

import copy
import json
import subprocess
import sys
from typing import Any

from memtrans_fairseq.analysis.attention import Map, Side
from memtrans_fairseq.analysis.numbers import gathered, numbers, summarised

import numpy as np
import pytest
from make_records import BLEU, digest

from memtrans.analysis.attention_record import STATISTICS, AttentionRecord
from memtrans.analysis.lesion_record import LesionRecord
from memtrans.errors import UserError

SUBJECT: dict[str, Any] = {
    "run": "0123456789abcdef",
    "label": "MemTransformer 2",
    "variant": "mem_transformer",
    "seed": 1,
    "corpus": {"name": "toy", "fingerprint": digest("toy"), "sources": {"train.de": digest("train.de")}},
    "split": "test",
    "sentences": 30,
    "unit": "sentence",
    "drawn": "all",
    "memory_tokens": 2,
    "commit": "0123456789ab",
    "finished": "2024-05-01T12:00:00+00:00",
    "checkpoint": "best",
    "checkpoint_sha256": digest("checkpoint"),
}
LAYER = {"part": "encoder", "layer": 1, "statistics": {"mass.read": {"value": [0.5], "low": [0.4], "high": [0.6]}}}
EXAMPLE = {
    "sentence": 3,
    "part": "encoder",
    "rows": ["[mem 1]", "ein"],
    "row_kinds": ["memory", "sequence"],
    "columns": ["[mem 1]", "ein"],
    "column_kinds": ["memory", "sequence"],
    "weights": [["g3tt"]],
}
ATTENTION: dict[str, Any] = {
    "schema": 2,
    "subject": SUBJECT,
    "confidence": 0.95,
    "resamples": 1000,
    "conditions": [{"name": "trained", "run": SUBJECT["run"], "sentences": 30, "layers": [LAYER]}],
    "examples": [EXAMPLE],
}
LESIONS: dict[str, Any] = {
    "schema": 1,
    "subject": SUBJECT,
    "intact": {"metric": "bleu", "value": 30.0, "split": "test", "items": 30, "signature": BLEU},
    "test": "sacreBLEU's paired bootstrap",
    "lesions": [
        {"kind": "single", "name": "without token 1", "value": 29.5, "difference": -0.5, "p": 0.02, "kept": [2]}
    ],
    "left_out": {},
}


@pytest.mark.parametrize(("cls", "content"), [(AttentionRecord, ATTENTION), (LesionRecord, LESIONS)])
def test_records_come_back_as_they_were_written(cls, content, tmp_path):
    path = cls(**content).save(tmp_path)
    assert path.name == "0123456789abcdef.json"
    assert cls.load(path) == cls(**content)
    path.rename(tmp_path / "fedcba9876543210.json")
    with pytest.raises(UserError, match="named after another run"):
        cls.load(tmp_path / "fedcba9876543210.json")


def test_a_record_that_is_no_json_is_told_by_name(tmp_path):
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(UserError, match=r"a\.json: cannot be read as JSON"):
        LesionRecord.load(tmp_path / "a.json")


@pytest.mark.parametrize("name", SUBJECT)
def test_evidence_is_not_optional(name):
    for cls, content in ((AttentionRecord, ATTENTION), (LesionRecord, LESIONS)):
        subject = {key: value for key, value in SUBJECT.items() if key != name}
        with pytest.raises(UserError, match=f"subject.{name}: missing"):
            cls(**content | {"subject": subject})


@pytest.mark.parametrize(
    ("cls", "where", "value", "says"),
    [
        (AttentionRecord, ("subject", "commit"), "main", "subject.commit: expected a git commit"),
        (AttentionRecord, ("subject", "unit"), "line", "no such value 'line'"),
        (
            AttentionRecord,
            ("conditions", 0, "name"),
            "shuffled",
            "expected trained first and each once, found shuffled",
        ),
        (AttentionRecord, ("conditions", 0, "layers"), [], "layers: empty"),
        (AttentionRecord, ("conditions", 0, "layers", 0, "layer"), 0, "layer: expected more than 0"),
        (
            AttentionRecord,
            ("conditions", 0, "layers", 0, "statistics"),
            {"mass.reed": {"value": [0.5], "low": [0.4], "high": [0.6]}},
            "did you mean mass.read",
        ),
        (
            AttentionRecord,
            ("conditions", 0, "layers", 0, "statistics", "mass.read", "low"),
            [0.4, 0.4],
            "value, low, high: expected as many of each",
        ),
        (AttentionRecord, ("conditions", 0, "layers", 0, "statistics"), {}, "statistics: expected as many heads in"),
        (AttentionRecord, ("examples", 0, "weights"), [["AA"]], "expected 4 letters in each head, 2 rows of 2"),
        (AttentionRecord, ("examples", 0, "weights"), [["AA-A"]], "expected 4 letters in each head, 2 rows of 2"),
        (AttentionRecord, ("examples", 0, "row_kinds"), ["memory"], "expected one for each row and column"),
        (AttentionRecord, ("schema",), 1, "schema: expected 2, found 1"),
        (LesionRecord, ("subject", "memory_tokens"), 0, "memory_tokens: expected more than 0"),
        (LesionRecord, ("intact", "signature"), None, "intact.signature: missing"),
        (LesionRecord, ("lesions", 0, "p"), 0.0, "p: expected a probability above 0"),
        (LesionRecord, ("lesions", 0, "kept"), None, "kept: missing; a lesion of the kind single needs it"),
        (LesionRecord, ("lesions", 0, "difference"), 0.5, "difference: expected that to the intact model's 30.0"),
        (LesionRecord, ("lesions",), [], "lesions: empty"),
    ],
)
def test_what_is_wrong_is_refused_by_name(cls, where, value, says):
    content = copy.deepcopy(ATTENTION if cls is AttentionRecord else LESIONS)
    *path, last = where
    inner = content
    for key in path:
        inner = inner[key]
    inner[last] = value
    with pytest.raises(UserError, match=says):
        cls(**content)


def test_records_and_usage_need_no_torch():
    rooms = "memtrans.analysis.attention_record, memtrans.analysis.lesion_record"
    code = f"import sys; import {rooms}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
    for script in ("attention", "lesion", "extend"):
        done = subprocess.run(
            [sys.executable, "-X", "importtime", "-m", f"scripts.{script}", "--help"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert f"python -m scripts.{script} runs/<hash>" in done.stdout
        assert "torch\n" not in done.stderr


# --- numbers


def maps(count: int, heads: int = 2) -> list[Map]:
    rng = np.random.default_rng(0)
    found = []
    for _ in range(count):
        words = int(rng.integers(4, 9))
        memory = np.arange(4 + words) < 4
        side = Side(memory, np.zeros_like(memory), np.where(memory, np.arange(4 + words), -1))
        weights = rng.dirichlet(np.ones(4 + words), size=(heads, 4 + words))
        found.append(Map("encoder", 0, weights, np.ones(weights.shape[1:], bool), side, side))
    return found


def test_every_number_has_a_meaning():
    assert set(numbers(maps(1)[0])) <= set(STATISTICS)
    assert json.loads(json.dumps(STATISTICS)) == STATISTICS


def test_means_are_over_sentences_and_intervals_hold_them():
    values = gathered(numbers(one) for one in maps(50))
    for name, (mean, low, high) in summarised(values).items():
        assert mean == pytest.approx(values[name].mean(axis=0))
        assert (low < mean).all()
        assert (mean < high).all()
        spread = values[name].std(axis=0) / 50**0.5
        assert high - low == pytest.approx(2 * 1.96 * spread, rel=0.15), name


def test_intervals_hold_the_truth_as_often_as_they_say():
    """Of 400 samples of 40 from a skewed distribution, at a nominal 95 percent."""
    rng = np.random.default_rng(2)
    inside = 0
    for _ in range(20):
        _, low, high = summarised({"x": rng.gamma(4.0, size=(40, 20))})["x"]
        inside += int(((low < 4) & (high > 4)).sum())
    assert 0.90 < inside / 400 < 0.98


def test_a_number_that_some_sentences_lack_is_the_mean_of_the_others():
    mean, low, high = summarised({"x": np.array([[1.0], [np.nan], [3.0], [2.0]])})["x"]
    assert mean.item() == 2
    assert 1 <= low.item() < 2 < high.item() <= 3
    assert gathered([{"x": np.array([np.nan])}, {"x": np.array([np.nan])}]) == {}
