"""A run's folder: its description, moved, renamed, broken."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from planned import planned

from memtrans.analysis.arguments import trained_run
from memtrans.errors import UserError
from memtrans.runs import Run


@pytest.fixture
def written(tmp_path: Path) -> Run:
    run = planned(f"paths.runs={tmp_path / 'runs'}", "label=\"A, B: 'c'\"")
    run.write()
    return run


def test_a_run_is_what_was_written(written):
    assert Run.read(written.folder) == written
    assert written.record() is None


def test_a_run_that_was_moved_lies_where_it_is(written, tmp_path, monkeypatch):
    (tmp_path / "other").mkdir()
    (tmp_path / "link").symlink_to(written.folder.rename(tmp_path / "other" / written.hash))
    moved = replace(written, runs=tmp_path / "other")
    assert Run.read(tmp_path / "other" / written.hash) == moved
    assert Run.read(tmp_path / "link") == moved
    monkeypatch.chdir(moved.folder)
    assert Run.read(Path()) == moved


def test_relative_folders_are_found_from_elsewhere(tmp_path, monkeypatch):
    project = tmp_path / "project"
    project.mkdir()
    monkeypatch.chdir(project)
    run = planned("paths.runs=all/runs", "paths.results=results")
    run.write()
    (project / run.data).mkdir(parents=True)
    assert Run.read(run.folder) == run
    for place, folder in ((tmp_path, Path("project") / run.folder), (run.folder, Path())):
        monkeypatch.chdir(place if place.is_absolute() else project / place)
        found = Run.read(folder)
        assert (found.results, found.data) == (project / "results", project / run.data)
    shutil.copytree(project / run.runs, tmp_path / "backup" / run.runs)
    (project / run.folder).rename(tmp_path / run.hash)
    for folder in (tmp_path / "backup" / run.folder, tmp_path / run.hash):
        assert Run.read(folder).results == Path("results"), "of the working directory, as nothing else is known"


def test_what_is_no_folder_of_a_run_is_told_so(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "nothing", tmp_path / "file", tmp_path):
        with pytest.raises(UserError, match=r"not a run's folder \(it has no run.json\); give one of runs/"):
            Run.read(path)


def test_a_folder_with_another_name_is_not_the_run(written):
    copy = shutil.copytree(written.folder, written.runs / "copy")
    with pytest.raises(UserError, match=rf"copy: holds the run {written.hash}; give the folder that name"):
        Run.read(copy)


@pytest.mark.parametrize("content", ["", '{"identity": {', "[]", '{"label": "x"}', "\xff"])
def test_a_description_that_cannot_be_read_is_told_with_its_cure(written, content):
    (written.folder / "run.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match=r"run\.json: cannot be read .*; the command that made the run writes it again"):
        Run.read(written.folder)


def test_a_run_without_its_prepared_corpus_says_how_to_get_it_back(written):
    (written.folder / "trained").touch()
    with pytest.raises(
        UserError, match="its prepared corpus is not in prepared; .* scripts.prepare again with the same"
    ):
        trained_run(written.folder)
