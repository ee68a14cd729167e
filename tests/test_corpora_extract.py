"""Archives: the needed members come out, nothing gets out of the folder, and a failure leaves nothing."""

import io
import tarfile

import pytest
from corpora_toys import tgz, tree, zipped

from memtrans.corpora.extract import extract
from memtrans.errors import UserError

MEMBERS = {"training/a.de": b"eins\n", "training/a.en": b"one\n", "training/b.cs": b"jedna\n"}


@pytest.fixture(params=[tgz, zipped])
def pack(request):
    return request.param


def test_only_the_needed_members(tmp_path, pack):
    (tmp_path / "archive").write_bytes(pack(MEMBERS))
    extract(tmp_path / "archive", ["training/a.de", "training/a.en"], tmp_path / "out")
    files = {path: (tmp_path / "out" / path).read_bytes() for path in tree(tmp_path / "out")}
    assert files == {"training/a.de": b"eins\n", "training/a.en": b"one\n"}


def test_leading_dot_is_the_same_member(tmp_path, pack):
    (tmp_path / "archive").write_bytes(pack({f"./{name}": content for name, content in MEMBERS.items()}))
    extract(tmp_path / "archive", ["training/a.de"], tmp_path / "out")
    assert (tmp_path / "out/training/a.de").read_bytes() == b"eins\n"


@pytest.mark.parametrize("member", ["../evil.de", "training/../../evil.de", "/tmp/../{outside}/evil.de"])
def test_no_member_leaves_the_target(tmp_path, pack, member):
    member = member.format(outside=tmp_path.relative_to("/"))
    (tmp_path / "archive").write_bytes(pack({member: b"evil\n"}))
    with pytest.raises(UserError, match="not safe"):
        extract(tmp_path / "archive", [member], tmp_path / "deep" / "out")
    assert set(tree(tmp_path)) == {"archive"}


def test_unneeded_members_that_would_escape_are_never_written(tmp_path, pack):
    (tmp_path / "archive").write_bytes(pack({"../evil.de": b"evil\n", "/etc/evil": b"evil\n"} | MEMBERS))
    extract(tmp_path / "archive", ["training/a.de"], tmp_path / "deep" / "out")
    assert set(tree(tmp_path)) == {"archive", "deep/out/training/a.de"}


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_links_are_refused(tmp_path, kind):
    (tmp_path / "secret").write_text("secret\n")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        entry = tarfile.TarInfo("training/a.de")
        entry.type, entry.linkname = kind, "../../secret"
        tar.addfile(entry)
    (tmp_path / "archive").write_bytes(buffer.getvalue())
    with pytest.raises(UserError, match="not safe"):
        extract(tmp_path / "archive", ["training/a.de"], tmp_path / "out")
    assert set(tree(tmp_path)) == {"secret", "archive"}


def test_missing_member(tmp_path, pack):
    (tmp_path / "archive").write_bytes(pack(MEMBERS))
    with pytest.raises(UserError, match=r"no member training/a\.fr"):
        extract(tmp_path / "archive", ["training/a.de", "training/a.fr"], tmp_path / "out")
    assert set(tree(tmp_path)) == {"archive"}


def test_damaged_archive(tmp_path, pack):
    content = pack({"a.de": bytes(range(256)) * 500})
    (tmp_path / "archive").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="cannot read"):
        extract(tmp_path / "archive", ["a.de"], tmp_path / "out")
    assert set(tree(tmp_path)) == {"archive"}
