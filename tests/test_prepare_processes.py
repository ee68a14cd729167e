"""Real processes: killed with SIGKILL in the middle of each step, started twice at once, and the command itself."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from corpora_toys import (
    save,
    sentences,
    serving,
    toy_wikitext,
    toy_wmt,
    tree,
    wikitext_files,
    wmt_files,
    write_parallel,
)

REPOSITORY = Path(__file__).resolve().parent.parent
TOYS = {"wmt14_deen": (toy_wmt, wmt_files()), "wikitext2": (toy_wikitext, wikitext_files())}
# what is on disk while a step is under way; the process is killed as soon as it sees one of them
MOMENTS = {
    "wmt14_deen": {
        "download": "downloads/wmt14_deen/*.part*",
        "first download done": "downloads/wmt14_deen/*.tgz",
        "extraction": "prepared/*/raw*/*.tmp",
        "cleaning": "prepared/*/text@*.tmp/train.de",
        "cleaned": "prepared/*/text",
        "vocabulary written": "prepared/*/spm.vocab",
        "vocabulary done": "prepared/*/spm.model",
        "binarising": "prepared/*/bin@*.tmp/*.idx",
        "binarised": "prepared/*/bin",
    },
    "wikitext2": {
        "download": "downloads/wikitext2/*.part*",
        "download done": "downloads/wikitext2/*.zip",
        "extraction": "prepared/*/raw*/*.tmp",
        "reading": "prepared/*/text@*.tmp/valid.txt",
        "read": "prepared/*/text",
        "vocabulary done": "prepared/*/dict.txt",
        "binarising": "prepared/*/bin@*.tmp/*.bin",
        "binarised": "prepared/*/bin",
    },
}
KILLS = [(corpus, moment) for corpus, moments in MOMENTS.items() for moment in moments]
PROGRAM = """
import sys
from pathlib import Path
from omegaconf import OmegaConf
from memtrans.corpora import binarise, prepare
binarise.WORTH_IT = 1  # several processes encode, however little there is
prepare(OmegaConf.load(sys.argv[1]), Path(sys.argv[2]))
"""
NO_LOCKS = "import fcntl\nfcntl.flock = lambda *_: None\n"  # as on a file system that does not honour them
READER = """
import hashlib, json, sys, time
from pathlib import Path
data, expected = Path(sys.argv[1]), json.loads(sys.argv[2])  # sha256 by path
looks = 0
print("reading", flush=True)
while not list(data.glob("prepared/*/manifest.json")):
    looks += 1
    time.sleep(0.02)
    for folder in [*data.glob("downloads/*"), *data.glob("prepared/*")]:
        for path in [folder, *folder.glob("text/*"), *folder.glob("bin/*"), *folder.glob("*")]:
            name = str(path.relative_to(data))
            if name in expected and path.is_file():
                assert hashlib.sha256(path.read_bytes()).hexdigest() == expected[name], f"half of {name}"
        for whole in ("text", "bin"):
            if (folder / whole).exists():
                names = {name for name in expected if name.startswith(f"{(folder / whole).relative_to(data)}/")}
                assert names == {str(path.relative_to(data)) for path in (folder / whole).rglob("*")}, whole
found = {str(path.relative_to(data)) for path in data.glob("prepared/*/*") if path.name in ("text", "bin")}
assert len(found) == 2, "the manifest was not last"
print(looks)
"""


def start(config: Path, data: Path, program: str = PROGRAM, *further: Path) -> subprocess.Popen:
    environment = {key: value for key, value in os.environ.items() if key != "MEMTRANS_MIRROR"}
    path = [*map(str, further), str(REPOSITORY), *sys.path]
    environment |= {"PYTHONPATH": os.pathsep.join(path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", program, str(config), str(data)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen) -> str:
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return errors


def outcome(data: Path) -> dict[str, str]:
    """Everything but the lock files."""
    return {name: digest for name, digest in tree(data).items() if not Path(name).name.startswith(".")}


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    """By corpus, its server, its config, and what an undisturbed run leaves."""
    with ExitStack() as stack:
        made = {}
        for name, (toy, files) in TOYS.items():
            folder = tmp_path_factory.mktemp(name)
            server = stack.enter_context(serving(files))
            config = save(toy(files, server.root), folder / "corpus.yaml")
            finish(start(config, folder / "data"))
            made[name] = server, config, outcome(folder / "data")
        yield made


@pytest.mark.slow
@pytest.mark.parametrize(("corpus", "moment"), KILLS)
def test_killed_then_continued_gives_the_same_bytes(tmp_path, toys, corpus, moment):
    server, config, expected = toys[corpus]
    server.pause = 0.05 if "download" in moment else 0.0
    for attempt in range(20):  # a busy machine may look too late
        data = tmp_path / str(attempt)
        process = start(config, data)
        while not list(data.glob(MOMENTS[corpus][moment])) and process.poll() is None:
            time.sleep(0.0005)
        process.kill()
        process.communicate()
        if process.returncode != 0 and outcome(data) != expected:
            break
    assert process.returncode == -signal.SIGKILL
    assert outcome(data) != expected, "every attempt was killed when its work was done"
    server.pause = 0.0
    finish(start(config, data))
    assert outcome(data) == expected


@pytest.mark.slow
@pytest.mark.parametrize("corpus", TOYS)
def test_killed_again_and_again(tmp_path, toys, corpus):
    """Every start is killed a little later than the last, in the same folder, until one gets through."""
    _, config, expected = toys[corpus]
    kills = 0
    for hundredths in range(10, 2000, 2):
        process = start(config, tmp_path)
        try:
            process.communicate(timeout=hundredths / 100)
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
def test_two_processes_at_once(tmp_path, toys):
    server, config, expected = toys["wmt14_deen"]
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
def test_many_readers_see_nothing_that_is_not_whole(tmp_path, toys):
    """They look while it is downloaded and prepared, by a process that is killed once on the way."""
    server, config, expected = toys["wikitext2"]
    server.pause = 0.02
    readers = [
        subprocess.Popen(
            [sys.executable, "-c", READER, str(tmp_path), json.dumps(expected)], stdout=subprocess.PIPE, text=True
        )
        for _ in range(6)
    ]
    for reader in readers:
        assert reader.stdout.readline() == "reading\n"
    writer = start(config, tmp_path)
    while not list(tmp_path.glob("prepared/*/bin@*.tmp")) and writer.poll() is None:
        time.sleep(0.0005)
    writer.kill()
    writer.communicate()
    server.pause = 0.0
    finish(start(config, tmp_path))
    looks = [int(reader.communicate(timeout=60)[0]) for reader in readers]
    assert [reader.returncode for reader in readers] == [0] * len(readers)
    assert min(looks) > 20


@pytest.mark.slow
def test_where_locks_are_not_honoured_the_work_is_done_twice_but_right(tmp_path, toys):
    server, config, expected = toys["wmt14_deen"]
    (tmp_path / "sitecustomize.py").write_text(NO_LOCKS)
    server.asked.clear()
    server.pause = 0.01
    processes = [start(config, tmp_path / "data", PROGRAM, tmp_path) for _ in range(3)]
    said = [finish(process) for process in processes]
    server.pause = 0.0
    assert not any("waiting" in text for text in said)
    asked = [name for name, _ in server.asked]
    assert len(asked) > len(set(asked)), "nothing was done twice: this shows nothing"
    assert outcome(tmp_path / "data") == expected


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


@pytest.mark.slow
def test_the_command_prepares_running_text(tmp_path):
    def command(*more: str) -> subprocess.CompletedProcess:
        arguments = ["corpus=demo_lm", "corpus.sizes={train: 20, valid: 2, test: 2}", f"paths.data={tmp_path}", *more]
        return subprocess.run(
            [sys.executable, "-m", "scripts.prepare", *arguments], cwd=REPOSITORY, capture_output=True, text=True
        )

    first, second = command(), command()
    assert first.returncode == 0, first.stderr
    assert "unknown" in first.stdout
    assert (second.stdout, second.stderr) == (first.stdout, "")
    failed = command("corpus.vocabulary.kind=wrds")
    assert failed.returncode == 1
    assert failed.stderr == "error: corpus.vocabulary.kind=wrds: did you mean words?\n"
