"""WikiText's preparation: a small archive of the published layout, or the same files one by one, from a server."""

import pytest
from corpora_toys import TEXTS, serving, toy_wikitext, tree, wikitext_files

from memtrans.corpora import pending_downloads, prepare
from memtrans.errors import UserError

FILES = wikitext_files()
ARCHIVE = "wikitext-2-v1.zip"
PLAIN = [f"{split}.txt" for split in TEXTS]


@pytest.fixture(autouse=True)
def _no_mirror(monkeypatch):
    monkeypatch.delenv("MEMTRANS_MIRROR", raising=False)


def content(prepared):
    """All but what names the files that were used."""
    return {name: digest for name, digest in tree(prepared.path).items() if name not in REPORTS}


REPORTS = ("manifest.json", "text/report.json")


def test_the_archive_with_a_broken_download(tmp_path):
    with serving(FILES, breaks=(ARCHIVE,)) as server:
        corpus = toy_wikitext(FILES, server.root)
        assert pending_downloads(corpus, tmp_path) == {ARCHIVE: len(FILES[ARCHIVE])}
        prepared = prepare(corpus, tmp_path)
    (first, whole), (second, rest) = server.asked
    assert first == second == ARCHIVE
    assert whole is None
    assert 0 < int(rest.removeprefix("bytes=").removesuffix("-")) <= len(FILES[ARCHIVE]) // 2
    for split, text in TEXTS.items():
        assert (prepared.path / f"text/{split}.txt").read_bytes() == text.encode()
    assert {path.name for path in prepared.path.iterdir()} == {"text", "dict.txt", "bin", "manifest.json"}
    assert list(prepared.manifest["sources"]) == [ARCHIVE]
    assert pending_downloads(corpus, tmp_path) == {}
    assert prepare(corpus, tmp_path) == prepared  # the server is gone: nothing may need it


def test_plain_files_give_the_same_corpus(tmp_path):
    with serving(FILES) as server:
        published = prepare(toy_wikitext(FILES, server.root), tmp_path / "zip")
    with serving({name: FILES[name] for name in PLAIN}) as server:
        plain = prepare(toy_wikitext(FILES, server.root), tmp_path / "plain")
    assert list(plain.manifest["sources"]) == PLAIN
    assert content(plain) == content(published)
    assert plain.path.name == published.path.name
    assert plain.manifest | {"sources": None} == published.manifest | {"sources": None}


def test_a_mirror_folder_comes_before_the_network(tmp_path, monkeypatch):
    mirror = tmp_path / "mirror/wikitext-2"
    mirror.mkdir(parents=True)
    for name in PLAIN:
        (mirror / name).write_bytes(FILES[name])
    monkeypatch.setenv("MEMTRANS_MIRROR", str(tmp_path / "mirror"))
    with serving(FILES) as server:
        corpus = toy_wikitext(FILES, server.root)
        assert pending_downloads(corpus, tmp_path / "data") == {}
        prepared = prepare(corpus, tmp_path / "data")
    assert server.asked == []
    assert list(prepared.manifest["sources"]) == PLAIN


@pytest.mark.parametrize("unit", ["lines", "words", "types"])
def test_another_count_than_published_is_an_error(tmp_path, unit):
    with serving(FILES) as server:
        corpus = toy_wikitext(FILES, server.root)
        real = corpus.splits.train[unit]
        corpus.splits.train[unit] += 1
        with pytest.raises(UserError, match=rf"train has {real} {unit}, expected {real + 1} .*train\.{unit}=null"):
            prepare(corpus, tmp_path)
        assert not list((tmp_path / "prepared").glob("*/manifest.json"))
        corpus.splits.train[unit] = None
        assert prepare(corpus, tmp_path).manifest["vocabulary"] == toy_wikitext(FILES).splits.train.types + 2
    assert len(server.asked) == 1  # the download was kept


def test_a_limited_vocabulary_needs_no_other_counts(tmp_path):
    with serving(FILES) as server:
        corpus = toy_wikitext(FILES, server.root)
        corpus.vocabulary.size = 50
        assert prepare(corpus, tmp_path).manifest["vocabulary"] == 52


def test_every_host_down_names_the_file_and_the_way_out(tmp_path):
    with serving({}) as server, pytest.raises(UserError, match=r"wikitext-2-v1.*404.*MEMTRANS_MIRROR") as failure:
        prepare(toy_wikitext(FILES, server.root), tmp_path)
    assert "\n" not in str(failure.value)
    assert list((tmp_path / "prepared").glob("[!.]*")) == []
