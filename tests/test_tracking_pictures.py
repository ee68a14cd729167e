"""Pictures for trackers: the learning curve, and where attention goes. In trackers' own files: `test_tracking_runs`."""

import math
from dataclasses import replace

import memtrans_fairseq  # noqa: F401  (must come before fairseq)

import pytest
from make_analyses import attention_record
from PIL import Image
from tracker_files import line, untrained_run

from memtrans.analysis import examples
from memtrans.analysis.attention_record import Maps
from memtrans.analysis.run import Opened
from memtrans.runs import Run
from memtrans.tracking import pictures
from memtrans.tracking.attention_pictures import BLOCKS, figures


@pytest.fixture
def run(tmp_path) -> Run:
    return untrained_run(tmp_path)


def test_the_learning_curve_is_a_picture(run):
    lines = [line("train_inner", update, loss=5 - update / 100) for update in (20, 40, 60)]
    lines += [line("valid", 30, loss=4.0), line("valid", 60, loss=math.inf), line("score", 60, value=1.0)]
    paths = pictures.draw(run, lines)
    assert paths == {"learning_curve": run.folder / "pictures" / "learning_curve.png"}
    with Image.open(paths["learning_curve"]) as picture:
        assert picture.size == (900, 600)
        assert len(picture.convert("RGB").getcolors(1 << 20)) > 10  # something is drawn
    (axes,) = pictures.learning_curve(run, lines).axes
    assert {curve.get_label(): list(curve.get_xdata()) for curve in axes.lines} == {
        "training": [20, 40, 60],
        "valid": [30, 60],
    }
    pictures.draw(run, [])  # of a run that was stopped at once


def kept(**changes: object) -> Maps:
    """Maps of two layers and two heads, over two memory tokens and three words."""
    examples = [replace(example, **changes) for example in attention_record().examples]
    return Maps(split="valid", unit="sentence", examples=examples)


def test_attention_is_drawn_by_layer_and_by_head(run):
    kept().save(run.attention)
    paths = pictures.draw(run, [])
    names = ["learning_curve", "attention_encoder_1", "attention_encoder_heads", "attention_encoder_2"]
    assert list(paths) == names
    assert paths == {name: run.folder / "pictures" / f"{name}.png" for name in names}
    for path in paths.values():
        with Image.open(path) as picture:
            picture.verify()
    found = pictures.attention(run)
    by_layer, by_head = (found[name].axes for name in names[1:3])
    shown = [axes.images[0].get_array().tolist() for axes in by_head[:4]]
    assert shown == [
        [[1.0 if letter == "/" else 0.0 for letter in head[row : row + 5]] for row in range(0, 25, 5)]
        for layer in kept().examples[0].weights
        for head in layer
    ]
    shown = [axes.images[0].get_array() for axes in by_layer[:2]]
    assert [values[0].tolist() for values in shown] == [[0.5, 0.5, 0, 0, 0], [0, 0, 0.5, 0.5, 0]]
    words = ["[mem 1]", "[mem 2]", "▁ein", "▁Hund", "</s>"]
    assert [label.get_text() for label in by_layer[0].get_xticklabels()] == words
    assert [label.get_text() for label in by_layer[0].get_yticklabels()] == words
    (title,) = found["attention_encoder_2"].texts
    assert title.get_text().startswith("Row, seed 1: encoder, sentence 8 of valid\n")


def outlines(maps: Maps) -> dict[str, tuple[float, float, float, float]]:
    """What the legend says of each colour, and what in the first map is outlined in it: left, top, width, height."""
    (figure,) = (drawn for name, drawn in figures(maps, "Row").items() if name.endswith("_1"))
    names = {}
    for legend in figure.legends:
        texts = [text.get_text() for text in legend.get_texts()]
        names = {patch.get_edgecolor(): text for patch, text in zip(legend.get_patches(), texts, strict=True)}
    return {
        names[box.get_edgecolor()]: (*box.get_xy(), box.get_width(), box.get_height()) for box in figure.axes[0].patches
    }


def test_blocks_of_memory_are_outlined():
    even = (("c" * 25,) * 2,) * 2  # 0.2, nearly
    found = outlines(kept(weights=even))
    assert {name: tuple(round(number) for number in box) for name, box in found.items()} == {
        "process: memory ← memory": (0, 0, 2, 2),
        "write: memory ← sequence": (2, 0, 3, 2),
        "read: sequence ← memory": (0, 2, 2, 3),
        "normal: sequence ← sequence": (2, 2, 3, 3),
    }
    blind = (("AAjjj" * 5,) * 2,) * 2  # no row sees memory
    assert [name.partition(":")[0] for name in outlines(kept(weights=blind))] == ["write", "normal"]
    words = ("sequence",) * 5
    assert outlines(kept(weights=even, row_kinds=words, column_kinds=words)) == {}


def test_carried_memory_and_cached_words_have_blocks_of_their_own():
    """As in a language model: rows of memory that was carried here are memory's."""
    columns = ("cached", "carried", "sequence", "sequence", "memory")
    rows = ("carried", "sequence", "sequence", "sequence", "memory")
    even = (("c" * 25,) * 2,) * 2  # 0.2, nearly
    found = outlines(kept(weights=even, row_kinds=rows, column_kinds=columns))
    assert {name.partition(":")[0] for name in found} == set(BLOCKS)


def test_words_are_no_formulas(run):
    names = ("[mem 1]", "[mem 2]", "$\\frac{", "$", "a" * 100)
    kept(rows=names, columns=names).save(run.attention)
    assert "attention_encoder_1" in pictures.draw(run, [])


def test_maps_that_cannot_be_read_cost_their_pictures_alone(run, capsys):
    run.attention.write_text('{"split": "valid", "unit": "sentence", "examples": [')
    assert set(pictures.draw(run, [])) == {"learning_curve"}
    said = capsys.readouterr().out
    assert said.startswith(f"no pictures of the attention: {run.attention}: cannot be read as JSON")
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("failure", "said"),
    [(SystemExit(75), "stopped"), (RuntimeError("out of\nmemory"), "out of memory"), (MemoryError(), "MemoryError")],
)
def test_maps_that_cannot_be_made_cost_a_line(run, failure, said, capsys):
    class Broken:
        def dataset(self, split: str) -> None:
            raise failure

        load_dataset = dataset

    (run.data / "manifest.json").write_text('{"corpus": "toy", "splits": {"valid": {}}}')
    described = replace(run, identity=run.identity | {"corpus": {"name": "toy"}})
    examples.keep_maps(Opened(described, model=None, task=Broken(), checkpoint=run.checkpoints))
    assert capsys.readouterr().out == f"no attention maps were kept: {said}\n"
    assert not described.attention.exists()
