"""Reading sentences: what ends a line, what is refused, and how the refusal reads."""

import gzip

import pytest

from memtrans.corpora.text import read_blocks, read_lines, read_pairs
from memtrans.errors import UserError


def test_only_newline_ends_a_line(tmp_path):
    sentences = ["one\u2028still one", "two\x85\x0b\x0c\x1c\u2029two", "", "three\r", "four"]
    path = tmp_path / "text.de"
    path.write_bytes("\n".join(sentences).encode())
    assert list(read_lines(path)) == sentences


@pytest.mark.parametrize("ending", ["", "\n"])
def test_last_line_needs_no_newline(tmp_path, ending):
    path = tmp_path / "text.de"
    path.write_bytes(f"a\nb{ending}".encode())
    assert list(read_lines(path)) == ["a", "b"]


def test_gzip_reads_as_plain(tmp_path):
    text = "Grüße\nan\nalle\n"
    (tmp_path / "text.de.gz").write_bytes(gzip.compress(text.encode()))
    assert list(read_lines(tmp_path / "text.de.gz")) == ["Grüße", "an", "alle"]


def test_sgm_yields_its_segments_in_order(tmp_path):
    path = tmp_path / "set.de.sgm"
    path.write_text(
        '<srcset setid="x" srclang="any">\n<doc docid="1">\n<hl>\n<seg id="1"> Müller & Sohn </seg>\n</hl>\n<p>\n'
        '<seg id="2">Er sagte: &quot;a &lt; b&quot; &amp; ging.</seg>\n</p>\n</doc>\n</srcset>\n',
        encoding="utf-8",
    )
    assert list(read_lines(path)) == ["Müller & Sohn", 'Er sagte: "a < b" & ging.']


@pytest.mark.parametrize("zipped", [False, True])
def test_invalid_utf8_names_file_and_line(tmp_path, zipped):
    content = b"gut\nauch gut\n" + "schön\n".encode("latin-1")
    path = tmp_path / ("text.de.gz" if zipped else "text.de")
    path.write_bytes(gzip.compress(content) if zipped else content)
    with pytest.raises(UserError, match=r"text\.de(\.gz)?, line 3: invalid UTF-8 .*0xf6"):
        list(read_lines(path))


def test_truncated_gzip_is_named(tmp_path):
    path = tmp_path / "text.de.gz"
    path.write_bytes(gzip.compress(b"a line\n" * 1000)[:-20])
    with pytest.raises(UserError, match="text.de.gz: damaged gzip"):
        list(read_lines(path))


@pytest.mark.parametrize("size", [1, 4, 9, 1000])
def test_blocks_are_the_file_cut_after_lines(tmp_path, size):
    content = "ein Satz\n\nGrüße\u2028an\r alle\nlast".encode()
    (tmp_path / "text").write_bytes(content)
    blocks = list(read_blocks(tmp_path / "text", size))
    assert b"".join(blocks) == content
    assert all(block.endswith(b"\n") for block in blocks[:-1])
    assert max(map(len, blocks)) <= size + 1 + max(map(len, content.split(b"\n")))


@pytest.mark.parametrize(("source", "target"), [(3, 5), (5, 3), (0, 1)])
def test_unequal_line_counts_are_an_error_with_both_counts(tmp_path, source, target):
    (tmp_path / "a.de").write_text("x\n" * source)
    (tmp_path / "a.en").write_text("y\n" * target)
    with pytest.raises(UserError, match=rf"unequal line counts: \S*a\.de has {source} lines, \S*a\.en has {target}"):
        list(read_pairs(tmp_path / "a.de", tmp_path / "a.en"))
