"""scripts.attention, lesion and extend as a user meets them: real commands on runs trained for seconds."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from places import REPOSITORY, Place

from memtrans.analysis.attention_record import AttentionRecord
from memtrans.analysis.lesion_record import LesionRecord
from memtrans.curves import Curve

pytestmark = pytest.mark.slow

PAIRS = tuple(f"corpus.sizes.{split}={pairs}" for split, pairs in (("train", 600), ("valid", 40), ("test", 40)))
PAIRS += ("corpus.vocabulary.size=200", "train.max_epoch=3", "train.lr=1e-2", "protocol.extra_splits=[]")
MEMORY = ("variant=mem_bottleneck", "model.memory_tokens=4")
STREAM = ("corpus=demo_lm", "size=lm_demo", "protocol=lm", "train.tokens_per_sample=16", "train.batch_size=4")
STREAM += tuple(f"corpus.sizes.{split}={documents}" for split, documents in (("train", 12), ("valid", 2), ("test", 2)))
STREAM += ("train.max_update=60", "train.warmup_updates=5", "protocol.perplexity=[segment]", "protocol.extra_splits=[]")
STREAM += ("variant=mem_transformer_lm", "model.memory_tokens=3", "model.memory_placement=recurrent")


def command(script: str, *arguments: str, fails: bool = False) -> str:
    """What a command prints; what it says of its failure, if it has to."""
    done = subprocess.run(
        [sys.executable, "-m", f"scripts.{script}", *arguments], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.returncode == fails, done.stdout + done.stderr
    return done.stderr if fails else done.stdout


def train(settings: tuple[str, ...], folder: Path) -> Path:
    """Train one more run of a place; its folder."""
    place = Place(settings, folder / "data", folder)
    before = set(place.records())
    place.train()
    (name,) = set(place.records()) - before
    return folder / "runs" / name


@pytest.fixture(scope="module")
def translator(tmp_path_factory) -> Path:
    return train((*PAIRS, *MEMORY), tmp_path_factory.mktemp("translator"))


@pytest.fixture(scope="module")
def language_model(tmp_path_factory) -> Path:
    return train(STREAM, tmp_path_factory.mktemp("language_model"))


def results(run: Path, kind: str) -> Path:
    return run.parent.parent / "results" / kind / f"{run.name}.json"


def record(run: Path) -> dict:
    return json.loads(results(run, "records").read_text())


def test_attention_of_a_translator_and_its_controls(translator):
    folder = translator.parent.parent
    baseline = train((*PAIRS, "variant=transformer"), folder)
    printed = command("attention", str(translator), f"baseline={baseline}", "sentences=30", "examples=1")
    assert str(results(translator, "attention")) in printed
    found = AttentionRecord.load(results(translator, "attention"))
    assert [condition.name for condition in found.conditions] == ["trained", "untrained", "shuffled", "baseline"]
    assert [condition.run for condition in found.conditions] == [translator.name] * 3 + [baseline.name]
    assert (found.subject.sentences, found.subject.unit, found.subject.split) == (30, "sentence", "test")
    for condition in found.conditions:
        places = [(layer.part, layer.layer, layer.heads) for layer in condition.layers]
        assert places == [(part, layer, 4) for part in ("encoder", "cross") for layer in (1, 2)]
    trained, untrained, shuffled, other = (condition.layers for condition in found.conditions)
    for layer in trained:
        numbers = layer.statistics
        if layer.part == "encoder":  # in a bottleneck, the sequence reads memory alone
            assert numbers["mass.read"].value == (1,) * 4
            assert "mass.normal" not in numbers
            for process, write in zip(numbers["mass.process"].value, numbers["mass.write"].value, strict=True):
                assert process + write == pytest.approx(1, abs=2e-4)
        for one in numbers.values():
            assert all(low <= mean <= high for low, mean, high in zip(one.low, one.value, one.high, strict=True))
    even = {
        json.dumps({name: n.uniform for name, n in layer.statistics.items()}, sort_keys=True)
        for side in (trained, untrained, shuffled)
        for layer in side
        if layer.part == "cross"
    }
    assert len(even) == 1, "uniform attention is the same for the same lengths"
    assert min(other[0].statistics["mass.normal"].value) > 0
    first = found.examples[0]
    assert (first.part, first.rows[:4], first.column_kinds[:5]) == (
        "encoder",
        ("[mem 1]", "[mem 2]", "[mem 3]", "[mem 4]"),
        ("memory",) * 4 + ("sequence",),
    )
    assert first.rows[-1] == "</s>"


def test_lesions_of_a_translator(translator):
    printed = command("lesion", str(translator), "kinds=first,frozen,blind")
    found = LesionRecord.load(results(translator, "lesions"))
    headline = record(translator)["scores"][0]
    assert found.intact.value == pytest.approx(headline["value"], abs=1e-9)
    assert found.intact.signature == headline["signature"]
    assert found.intact.signature is not None
    assert found.intact.signature.removeprefix("nrefs:1|") in found.test.replace("bs:1000|seed:12345|", "")
    assert [lesion.kept for lesion in found.lesions if lesion.kind == "first"] == [(1,), (1, 2), (1, 2, 3)]
    assert found.left_out == {"first 0 of 4 tokens": "this lesion leaves rows with nothing to see: keep a memory token"}
    assert f"intact: bleu {headline['value']:.2f}" in printed


def test_attention_and_lesions_of_a_language_model(language_model):
    command("attention", str(language_model), "sentences=30")
    attention = AttentionRecord.load(results(language_model, "attention"))
    assert {layer.part for layer in attention.conditions[0].layers} == {"decoder"}
    assert {"carried", "memory", "sequence"} == set(attention.examples[0].column_kinds)
    command("lesion", str(language_model))
    found = LesionRecord.load(results(language_model, "lesions"))
    score = record(language_model)["scores"][0]
    assert found.intact.value == pytest.approx(score["value"], rel=1e-9)
    assert (found.intact.context, found.intact.items) == (score["context"], score["items"])
    assert {lesion.kind for lesion in found.lesions} == {"first", "random", "single", "frozen", "zeroed", "more"}
    for lesion in found.lesions:
        assert lesion.low is not None
        assert lesion.high is not None
        assert lesion.low < lesion.difference < lesion.high


def test_an_extended_run_starts_from_its_parent_and_names_it(language_model):
    """Trained at a learning rate of nothing, it is the parent with more tokens, which is one of its lesions."""
    command("lesion", str(language_model), "kinds=more")
    (lesion,) = (
        lesion for lesion in LesionRecord.load(results(language_model, "lesions")).lesions if lesion.start == "copies"
    )
    arguments = (str(language_model), "memory_tokens=6", "start=copies", "train.max_update=3", "train.lr=1e-12")
    before = set(results(language_model, "records").parent.iterdir())
    printed = command("extend", *arguments)
    (path,) = set(results(language_model, "records").parent.iterdir()) - before
    child = json.loads(path.read_text())
    assert child["scores"][0]["value"] == pytest.approx(lesion.value, rel=1e-6)
    assert child["config"]["parent"]["run"] == language_model.name
    assert child["config"]["model"]["memory_tokens"] == 6
    assert (child["updates"], child["label"]) == (3, "MemTransformer 3, continued with 6")
    curve = Curve.load(path.parents[1] / "curves" / path.name)
    assert (curve.training.updates, curve.validation.updates) == ((), (3,)), "its own updates"
    assert child["parameters"] == record(language_model)["parameters"] + 3 * 64
    assert command("extend", *arguments) == printed, "done once"


def test_an_extended_translator_learns_on(translator):
    printed = command("extend", str(translator), "memory_tokens=2", "train.max_update=2")
    assert "MemBottleneck 4, continued with 2: bleu" in printed


@pytest.mark.parametrize(
    ("script", "arguments", "says"),
    [
        ("attention", ["split=dev"], "split=dev: the corpus has no such split; it has train, valid, test"),
        ("attention", ["baseline={run}"], "it has memory itself; give a run of the same corpus without"),
        ("attention", ["sentences=0"], "sentences=0: expected a whole number of at least 1"),
        ("attention", ["sentence=3"], "sentence: no such setting; did you mean sentences?"),
        ("lesion", ["kinds=singel"], "kinds: no such kind of lesion 'singel'; did you mean single?"),
        ("extend", [], "memory_tokens: missing; say how many, for example memory_tokens=20"),
        ("extend", ["memory_tokens=5", "start=old"], "start=old: expected new or copies"),
        ("extend", ["memory_tokens=5", "train.max_updates=5"], "train.max_updates: not a training option of the run"),
    ],
)
def test_what_cannot_work_is_told_in_one_line_and_leaves_nothing(language_model, script, arguments, says):
    folder = language_model.parent.parent
    before = {path for path in folder.rglob("*") if path.is_file()}
    told = command(script, str(language_model), *(a.format(run=language_model) for a in arguments), fails=True)
    assert told.splitlines()[-1].startswith("error: ")
    assert says in told.splitlines()[-1]
    assert {path for path in folder.rglob("*") if path.is_file()} == before
