"""The WMT-14 preparation: small archives of the published layout, from a server that breaks off the first download."""

import pytest
from corpora_toys import PAIRS, TRAIN, Server, sentences, serving, toy_wmt, tree, wmt_files

from memtrans.corpora import prepare, read_lines
from memtrans.corpora.prepare import task_of
from memtrans.corpora.sources import gather
from memtrans.errors import UserError

FILES = wmt_files()
EUROPARL = "training-parallel-europarl-v7.tgz"


@pytest.fixture(autouse=True)
def _no_mirror(monkeypatch):
    monkeypatch.delenv("MEMTRANS_MIRROR", raising=False)


def content(prepared):
    return {name: digest for name, digest in tree(prepared.path).items() if name not in REPORTS}


REPORTS = ("manifest.json", "text/report.json")  # these name the archives that were used


def test_published_archives_with_a_broken_download(tmp_path):
    with serving(FILES, breaks=(EUROPARL,)) as server:
        corpus = toy_wmt(FILES, server.root)
        prepared = prepare(corpus, tmp_path)
    for side, language in enumerate(("de", "en")):
        train = list(read_lines(prepared.path / f"text/train.{language}"))
        parts = [pair[side] for seed in TRAIN.values() for pair in sentences(PAIRS["train"] // 3, seed)]
        assert train == parts
        for split, seed in (("valid", 13), ("test", 14)):
            expected = [pair[side] for pair in sentences(PAIRS[split], seed)]
            assert list(read_lines(prepared.path / f"text/{split}.{language}")) == expected
    ranges = [wanted for name, wanted in server.asked if name == EUROPARL]
    assert ranges[0] is None
    assert 0 < int(ranges[1].removeprefix("bytes=").removesuffix("-")) <= len(FILES[EUROPARL]) // 2
    assert len(ranges) == 2
    asked = [name for name, _ in server.asked]
    assert {name for name in asked if asked.count(name) > 1} == {EUROPARL}
    assert {path.name for path in prepared.path.iterdir()} == {"text", "spm.model", "spm.vocab", "bin", "manifest.json"}

    # the server is gone: nothing may need it, and nothing may change
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert prepare(corpus, tmp_path) == prepared
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_zip_and_sgm_alternatives_give_the_same_corpus(tmp_path):
    with serving(FILES) as server:
        published = prepare(toy_wmt(FILES, server.root), tmp_path / "tgz")
    others = {name: data for name, data in FILES.items() if name.endswith(".zip")}
    with serving(others) as server:
        repacked = prepare(toy_wmt(FILES, server.root), tmp_path / "zip")
    assert set(repacked.manifest["sources"]) == set(others)
    assert set(published.manifest["sources"]).isdisjoint(others)
    assert content(repacked) == content(published)
    assert repacked.path.name == published.path.name


def test_files_at_hand_come_before_the_network(tmp_path, monkeypatch):
    mirror = tmp_path / "mirror/wmt14_deen"
    mirror.mkdir(parents=True)
    for name, data in FILES.items():
        if name.endswith(".zip"):
            (mirror / name).write_bytes(data)
    monkeypatch.setenv("MEMTRANS_MIRROR", str(tmp_path / "mirror"))
    with serving(FILES) as server:
        gathered = gather(task_of(toy_wmt(FILES, server.root)), tmp_path / "downloads", tmp_path / "raw")
    assert server.asked == []
    assert set(gathered.used) == {name for name in FILES if name.endswith(".zip")}


def test_first_host_down(tmp_path):
    with serving({}) as down, serving(FILES) as up:
        gathered = gather(task_of(toy_wmt(FILES, down.root, up.root)), tmp_path / "downloads", tmp_path / "raw")
    assert {name for name, _ in down.asked} == {name for name, _ in up.asked} == set(gathered.used)
    assert EUROPARL in gathered.used


def test_every_host_down_names_the_file_and_the_way_out(tmp_path):
    with serving({}) as server, pytest.raises(UserError, match=r"europarl.*404.*MEMTRANS_MIRROR") as failure:
        prepare(toy_wmt(FILES, server.root), tmp_path)
    assert "\n" not in str(failure.value)
    assert list((tmp_path / "prepared").glob("[!.]*")) == []


def test_wrong_checksums_everywhere_leave_nothing(tmp_path):
    forged = {name: bytes(len(data)) for name, data in FILES.items()}
    with serving(forged) as server, pytest.raises(UserError, match="wrong checksum"):
        prepare(toy_wmt(FILES, server.root), tmp_path)
    assert [name for name in tree(tmp_path) if "/." not in name] == []


def test_another_count_than_published_is_an_error(tmp_path):
    with serving(FILES) as server:
        corpus = toy_wmt(FILES, server.root)
        corpus.splits.train.pairs += 1
        with pytest.raises(UserError, match=r"train has 1800 pairs, expected 1801"):
            prepare(corpus, tmp_path)
        assert list((tmp_path / "prepared").glob("[!.]*")) == []
        asked = len(server.asked)
        corpus.splits.train.pairs = None
        assert prepare(corpus, tmp_path).manifest["splits"]["train"]["pairs"] == 1800
    assert len(server.asked) == asked  # the downloads were kept


def test_an_archive_that_would_escape_is_refused(tmp_path):
    with serving(FILES) as server:
        corpus = toy_wmt(FILES, server.root)
        for alternative in corpus.splits.train.parts[0]:
            alternative.de = alternative.de.replace("training/", "training/../../../../")
        with pytest.raises(UserError, match="not safe"):
            prepare(corpus, tmp_path)
    assert not [name for name in tree(tmp_path) if name.endswith("europarl-v7.de-en.de")]


def test_the_toy_server_really_breaks():
    """The tests above are worth something only if the first answer is cut."""
    import requests

    with serving(FILES, breaks=("dev.tgz",)) as server:
        assert isinstance(server, Server)
        with pytest.raises(requests.RequestException):
            requests.get(f"{server.root}/dev.tgz", timeout=5).content  # noqa: B018
        assert requests.get(f"{server.root}/dev.tgz", timeout=5).content == FILES["dev.tgz"]
