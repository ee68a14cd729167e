"""Downloads against a real server: resuming, falling back, verifying, and what is left behind."""

import hashlib
import random
import socket

import pytest
from corpora_toys import serving, tree

from memtrans.corpora.fetch import Remote, at_hand, fetch
from memtrans.errors import UserError

CONTENT = random.Random(1).randbytes(300_000)


def remote(*urls: str, content: bytes = CONTENT, mirror: str = "toy") -> Remote:
    return Remote("toy", "toy.tgz", len(content), hashlib.sha256(content).hexdigest(), urls, mirror)


@pytest.fixture(autouse=True)
def _no_mirror(monkeypatch):
    monkeypatch.delenv("MEMTRANS_MIRROR", raising=False)


@pytest.fixture
def dead() -> str:
    """A URL where nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}/toy.tgz"


def visible(folder):
    return {name for name in tree(folder) if not name.startswith(".")}


def test_broken_download_asks_only_for_the_rest(tmp_path):
    with serving({"toy.tgz": CONTENT}, breaks=("toy.tgz",)) as server:
        path = fetch(remote(f"{server.root}/toy.tgz"), tmp_path)
    assert path.read_bytes() == CONTENT
    (first, _), (second, rest) = [(wanted, name) for name, wanted in server.asked]
    assert first is None
    start = int(second.removeprefix("bytes=").removesuffix("-"))
    assert len(CONTENT) / 4 < start <= len(CONTENT) / 2
    assert visible(tmp_path) == {"toy.tgz"}


def test_a_later_process_continues_the_part(tmp_path):
    (tmp_path / "toy.tgz.part").write_bytes(CONTENT[:100_000])
    with serving({"toy.tgz": CONTENT}) as server:
        fetch(remote(f"{server.root}/toy.tgz"), tmp_path)
    assert server.asked == [("toy.tgz", "bytes=100000-")]
    assert (tmp_path / "toy.tgz").read_bytes() == CONTENT


def test_a_complete_part_needs_no_network(tmp_path, dead):
    (tmp_path / "toy.tgz.part").write_bytes(CONTENT)
    assert fetch(remote(dead), tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("part", [b"rubbish" * 100, CONTENT + b"too long"])
def test_a_bad_part_is_thrown_away(tmp_path, part):
    (tmp_path / "toy.tgz.part").write_bytes(part)
    with serving({"toy.tgz": CONTENT}) as server:
        assert fetch(remote(f"{server.root}/toy.tgz"), tmp_path).read_bytes() == CONTENT
    assert server.asked[-1] == ("toy.tgz", None)


def test_server_without_ranges_starts_afresh(tmp_path):
    with serving({"toy.tgz": CONTENT}, breaks=("toy.tgz",), ranges=False) as server:
        assert fetch(remote(f"{server.root}/toy.tgz"), tmp_path).read_bytes() == CONTENT


def test_dead_and_missing_urls_are_passed_over(tmp_path, dead):
    with serving({"toy.tgz": CONTENT}) as server:
        path = fetch(remote(dead, f"{server.root}/gone.tgz", f"{server.root}/toy.tgz"), tmp_path)
    assert path.read_bytes() == CONTENT
    assert [name for name, _ in server.asked] == ["gone.tgz", "toy.tgz"]


def test_an_unknown_host_is_told_in_whole_brackets(tmp_path):
    with pytest.raises(UserError) as failure:
        fetch(remote("http://nowhere.invalid/toy.tgz"), tmp_path)
    said = str(failure.value)
    assert "(http://nowhere.invalid/toy.tgz: " in said
    assert said.count("(") == said.count(")")


def test_a_url_that_breaks_for_good_is_continued_elsewhere(tmp_path):
    with serving({"toy.tgz": CONTENT}, breaks=("toy.tgz",)) as first, serving({"toy.tgz": CONTENT}) as second:
        # the first server forgets the file after its half
        first.files = type("Once", (dict,), {"get": lambda files, name: files.pop(name, None)})(first.files)
        path = fetch(remote(f"{first.root}/toy.tgz", f"{second.root}/toy.tgz"), tmp_path)
    assert path.read_bytes() == CONTENT
    assert second.asked[0][1] is not None


@pytest.mark.parametrize("wrong", [bytes(len(CONTENT)), CONTENT[:-1], CONTENT + b"x"])
def test_wrong_bytes_fail_clearly_and_leave_nothing(tmp_path, wrong):
    with serving({"toy.tgz": wrong}) as server, pytest.raises(UserError) as failure:
        fetch(remote(f"{server.root}/toy.tgz"), tmp_path)
    message = str(failure.value)
    assert "toy.tgz" in message
    assert "\n" not in message
    assert ("wrong checksum" in message) if len(wrong) == len(CONTENT) else (str(len(CONTENT)) in message)
    assert visible(tmp_path) == set()


def test_wrong_bytes_at_the_first_url_fall_back_to_the_second(tmp_path):
    with serving({"bad.tgz": bytes(len(CONTENT)), "toy.tgz": CONTENT}) as server:
        path = fetch(remote(f"{server.root}/bad.tgz", f"{server.root}/toy.tgz"), tmp_path)
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("layout", ["archives", "toy", "."])
def test_mirror_is_tried_before_the_network(tmp_path, monkeypatch, dead, layout):
    mirrored = tmp_path / "mirror" / layout / "toy.tgz"
    mirrored.parent.mkdir(parents=True)
    mirrored.write_bytes(CONTENT)
    monkeypatch.setenv("MEMTRANS_MIRROR", str(tmp_path / "mirror"))
    assert fetch(remote(dead, mirror="archives"), tmp_path / "downloads").samefile(mirrored)


def test_a_wrong_mirror_file_is_passed_over(tmp_path, monkeypatch, capsys):
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror/toy.tgz").write_bytes(bytes(len(CONTENT)))
    monkeypatch.setenv("MEMTRANS_MIRROR", str(tmp_path / "mirror"))
    with serving({"toy.tgz": CONTENT}) as server:
        assert fetch(remote(f"{server.root}/toy.tgz"), tmp_path / "downloads").read_bytes() == CONTENT
    assert "wrong checksum" in capsys.readouterr().err


def test_a_wrong_file_in_downloads_is_the_users_to_delete(tmp_path, dead):
    (tmp_path / "toy.tgz").write_bytes(bytes(len(CONTENT)))
    with pytest.raises(UserError, match="wrong checksum.*delete it"):
        at_hand(remote(dead), tmp_path)


def test_plain_progress_lines_without_a_terminal(tmp_path, capsys):
    with serving({"toy.tgz": CONTENT}) as server:
        fetch(remote(f"{server.root}/toy.tgz"), tmp_path)
    assert "fetching toy.tgz: 300.0 kB" in capsys.readouterr().err
