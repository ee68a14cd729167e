"""What a run's log says: how far it is, and why it failed."""

import json

import pytest

from memtrans.runlog import last_error, read_progress


def inner(**given: object) -> str:
    stats = {"epoch": 2, "update": 1.5, "loss": "7.9", "wps": "16676.8", "wpb": "1667.68", "num_updates": "20"}
    stats |= given
    return f"2026-01-01 00:00:00 | INFO | train_inner | {json.dumps(stats)}\n"


def test_progress_is_the_newest_whole_line(tmp_path):
    log, train = tmp_path / "log.txt", {"max_update": None, "max_epoch": 3}
    assert read_progress(log, train) is None
    log.write_text("starting\n" + inner() + inner(update=2.25, num_updates="30") + inner(update=2.7)[:-20])
    progress = read_progress(log, train)
    assert progress is not None
    assert progress.fraction == 0.75
    assert progress.text == "epoch 2, update 30, loss 7.9, 16,677 tokens/s"
    assert (progress.epoch, progress.update, progress.loss, progress.tokens_per_second) == (2, 30, 7.9, 16676.8)
    assert progress.seconds_left == pytest.approx(1.0)  # 10 of 40 updates, 10 a second
    assert read_progress(log, {"max_update": 31, "max_epoch": 30}).fraction == pytest.approx(30 / 31)
    for line in ("translating test", "scoring test, xl_eval"):
        with log.open("a") as file:
            file.write(f"\n{line}\n")
        progress = read_progress(log, train)
        assert (progress.fraction, progress.text) == (1.0, line)


def test_a_failure_is_told_by_its_first_line_of_meaning(tmp_path):
    log = tmp_path / "log.txt"
    assert last_error(log) == "it wrote nothing"
    log.write_text("error: an earlier attempt\n")
    start = log.stat().st_size
    assert last_error(log) == "an earlier attempt"
    assert last_error(log, start) == "it wrote nothing"
    with log.open("a") as file:
        file.write("Traceback (most recent call last):\n  File 'a'\n    raise\nKeyError: 'first'\n\nDuring ...:\n\n")
        file.write("Traceback (most recent call last):\n  File 'b'\n\nlib.Problem: 1 thing\nmore of it\n  and more\n")
    assert last_error(log, start) == "lib.Problem: 1 thing"
    with log.open("a") as file:
        file.write("error: set the other thing\nwandb: syncing\n")
    assert last_error(log, start) == "set the other thing"
