"""Real processes: killed with SIGKILL in the middle of each step, started twice at once, and the command itself."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from corpora_toys import save, sentences, serving, toy_wmt, tree, wmt_files, write_parallel

REPOSITORY = Path(__file__).resolve().parent.parent
FILES = wmt_files()
# what is on disk while a step is under way; the process is killed as soon as it sees one of them
MOMENTS = {
    "download": "downloads/wmt14_deen/*.part",
    "first download done": "downloads/wmt14_deen/*.tgz",
    "extraction": "prepared/*/raw/*.tmp",
    "cleaning": "prepared/*/text.tmp/train.de",
    "cleaned": "prepared/*/text",
    "vocabulary written": "prepared/*/spm.vocab",
    "vocabulary done": "prepared/*/spm.model",
    "binarising": "prepared/*/bin.tmp/*.idx",
    "binarised": "prepared/*/bin",
}
PROGRAM = """
import sys
from pathlib import Path
from omegaconf import OmegaConf
from memtrans.corpora import prepare
prepare(OmegaConf.load(sys.argv[1]), Path(sys.argv[2]))
"""


def start(config: Path, data: Path) -> subprocess.Popen:
    environment = {key: value for key, value in os.environ.items() if key != "MEMTRANS_MIRROR"}
    environment |= {"PYTHONPATH": os.pathsep.join([str(REPOSITORY), *sys.path]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PROGRAM, str(config), str(data)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen) -> str:
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return errors


def outcome(data: Path) -> dict[str, str]:
    """Everything but the lock files."""
    return {name: digest for name, digest in tree(data).items() if not Path(name).name.startswith(".")}


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """A server whose every download breaks off once, the corpus config, and what an undisturbed run leaves."""
    folder = tmp_path_factory.mktemp("toy")
    with serving(FILES) as server:
        config = save(toy_wmt(FILES, server.root), folder / "corpus.yaml")
        finish(start(config, folder / "data"))
        yield server, config, outcome(folder / "data")


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_then_continued_gives_the_same_bytes(tmp_path, toy, moment):
    server, config, expected = toy
    server.pause = 0.05 if "download" in moment else 0.0
    for attempt in range(5):  # a busy machine may look too late
        data = tmp_path / str(attempt)
        process = start(config, data)
        while not list(data.glob(MOMENTS[moment])) and process.poll() is None:
            time.sleep(0.0005)
        process.kill()
        process.communicate()
        if process.returncode != 0:
            break
    assert process.returncode == -signal.SIGKILL
    assert outcome(data) != expected
    server.pause = 0.0
    finish(start(config, data))
    assert outcome(data) == expected


@pytest.mark.slow
def test_killed_again_and_again(tmp_path, toy):
    """Every start is killed a little later than the last, in the same folder, until one gets through."""
    _, config, expected = toy
    kills = 0
    for tenths in range(2, 200, 4):
        process = start(config, tmp_path)
        try:
            process.communicate(timeout=tenths / 10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            kills += 1
            continue
        break
    assert process.returncode == 0
    assert kills > 3
    assert outcome(tmp_path) == expected


@pytest.mark.slow
def test_two_processes_at_once(tmp_path, toy):
    server, config, expected = toy
    server.asked.clear()
    server.pause = 0.05
    processes = [start(config, tmp_path) for _ in range(3)]
    errors = [finish(process) for process in processes]
    server.pause = 0.0
    waiting = [text for text in errors if "another process is at work on wmt14_deen-" in text]
    assert len(waiting) == 2
    assert all(text.count("\n") == 1 for text in waiting)  # one line, and then the finished corpus
    asked = [name for name, _ in server.asked]
    assert len(asked) == len(set(asked))
    assert outcome(tmp_path) == expected


@pytest.mark.slow
def test_the_command_reports_and_fails_in_one_line(tmp_path):
    for split, count, seed in (("train", 300, 12), ("valid", 20, 1), ("test", 20, 2)):
        write_parallel(tmp_path / split, [*sentences(count, seed), *([("", "x")] if split == "train" else [])])

    def command(*more: str) -> subprocess.CompletedProcess:
        splits = [f"corpus.{split}={tmp_path / split}" for split in ("train", "valid", "test")]
        languages = ["corpus.source_lang=de", "corpus.target_lang=en", "corpus.vocabulary.size=200"]
        arguments = ["corpus=local", *splits, *languages, f"paths.data={tmp_path / 'data'}", *more]
        return subprocess.run(
            [sys.executable, "-m", "scripts.prepare", *arguments], cwd=REPOSITORY, capture_output=True, text=True
        )

    first, second = command(), command()
    assert first.returncode == second.returncode == 0, first.stderr
    assert "empty" in first.stdout
    assert "300" in first.stdout
    assert second.stdout == first.stdout
    assert second.stderr == ""
    failed = command("corpus.test=/nowhere/test")
    assert failed.returncode == 1
    assert failed.stderr.startswith("error: missing file: corpus.test=/nowhere/test")
    assert failed.stderr.count("\n") == 1
