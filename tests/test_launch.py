"""What cannot be started, read or written; killed, stopped and failing runs: `test_harness`, `test_preemption`."""

from dataclasses import replace
from unittest.mock import Mock

import pytest

from memtrans import processes
from memtrans.configuration import compose
from memtrans.corpora import Prepared
from memtrans.errors import UserError, main_guard
from memtrans.evaluation import load_model
from memtrans.launch import launch, runs_per_device
from memtrans.runs import plan_run

MANIFEST = {"corpus": "toy", "fingerprint": "0" * 64, "source_lang": "de", "target_lang": "en"}
MANIFEST |= {"splits": {"train": {}, "valid": {}, "test": {}}}


def test_a_run_that_cannot_be_started_stops_no_other(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "MODULE", ("-c", "import sys; sys.exit('error: at work')"))
    first = plan_run(compose([f"paths.runs={tmp_path}"]), Prepared(tmp_path, MANIFEST))
    runs = [replace(first, identity=first.identity | {"seed": seed}) for seed in (1, 2, 3)]
    runs[0].folder.touch()  # a file where a folder should be
    failures = {failure.run.seed: failure.reason for failure in launch(runs, 1, 0)}
    assert failures.pop(1).startswith(f"{runs[0].folder}")
    assert failures.keys() == {2, 3}
    assert all("at work" in reason for reason in failures.values())


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (
            PermissionError(13, "Permission denied", "results/TABLES.md"),
            "error: results/TABLES.md: Permission denied\n",
        ),
        (OSError(28, "No space left on device"), "error: No space left on device\n"),
    ],
)
def test_what_the_system_refuses_is_one_line(capsys, error, says):
    with pytest.raises(SystemExit, match="1"):
        main_guard(Mock(side_effect=error, __name__="command"))()
    assert capsys.readouterr().err == says


def test_what_is_no_matter_of_files_keeps_its_traceback():
    with pytest.raises(ConnectionResetError):
        main_guard(Mock(side_effect=ConnectionResetError(104, "reset"), __name__="command"))()


@pytest.mark.parametrize(
    ("side_by_side", "gpus", "gpus_per_run", "share"),
    [(24, 2, 1, 12), (3, 2, 1, 2), (2, 8, 4, 1), (3, 8, 4, 2), (3, 8, 5, 3), (4, 0, 1, 4), (2, 0, 2, 4)],
)
def test_how_many_runs_share_a_device(side_by_side, gpus, gpus_per_run, share):
    assert runs_per_device(side_by_side, gpus, gpus_per_run) == share


def test_a_manifest_and_a_checkpoint_that_cannot_be_read_are_named(tmp_path):
    for content in ('{"corpus": ', "[]", "{}"):
        (tmp_path / "manifest.json").write_text(content)
        with pytest.raises(UserError, match=f"{tmp_path}/manifest.json: cannot be read .*; delete its folder"):
            Prepared.read(tmp_path)
    with pytest.raises(UserError, match=f"{tmp_path}/checkpoint_best.pt: there is no such checkpoint"):
        load_model(tmp_path / "checkpoint_best.pt", tmp_path)
