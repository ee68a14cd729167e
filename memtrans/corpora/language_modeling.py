"""Corpora of running text, for language models: nothing is cleaned, and every line counts, empty ones too.

They are scored per published word, so the text stays as it is, and words are what stands between whitespace.
"""

import json
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from memtrans.corpora.binarise import Encoded, count_tokens, piece_encoder, write_lines, write_pieces
from memtrans.corpora.task import SPLITS, Counts, Lines, Part, Task
from memtrans.corpora.text import batches, read_lines
from memtrans.corpora.vocabulary import SPECIAL, train_vocabulary
from memtrans.corpora.words import MISSING, RESERVED, UNKNOWN, count_words, encode_words, read_words, write_words
from memtrans.errors import UserError, did_you_mean
from memtrans.files import write_json
from memtrans.progress import say

UNITS = {"words": "word", "bpe": "subword"}  # of a vocabulary, by its kind
BATCH = 1000  # lines encoded at once: bounds the memory
BESIDE = 2  # entries of the vocabulary that are no words: the end of a line and <unk>
OUTSIDE = 2  # entries of fairseq's dictionary that are never predicted, and not counted: <s> and <pad>
Size = tuple[int, int, int]  # lines; words, with one end-of-line a line; different words beside <unk>
AS_IT_IS = {  # settings of sentencepiece, so that subwords spell the very words of the text
    "normalization_rule_name": "identity",
    "max_sentence_length": 1 << 24,  # bytes: paragraphs count too, not only sentences
    "required_chars": UNKNOWN,  # of a word <unk>, which it leaves out in training: here it is a word like any other
}


class LanguageModeling(Task):
    """`text/<split>.txt`, `dict.txt` or `spm.model`, `bin/<split>.{bin,idx}`, `bin/dict.txt`."""

    published = ("lines", "words")
    generator = [Path(__file__).parent / "demo_lm.py"]
    sides = ("txt",)

    @property
    def of_words(self) -> bool:
        return self.corpus.vocabulary.kind == "words"

    @property
    def vocabulary_file(self) -> str:
        return "dict.txt" if self.of_words else "spm.model"

    def check(self) -> None:
        kind, size = self.corpus.vocabulary.kind, self.corpus.vocabulary.size
        if kind not in UNITS:
            raise UserError(f"corpus.vocabulary.kind={kind}: {did_you_mean(str(kind), UNITS)}")
        if not (isinstance(size, int) and size > 0) and not (self.of_words and size is None):
            expected = "the number of most frequent words, or null for all" if self.of_words else "such as 16000"
            raise UserError(f"corpus.vocabulary.size={size}: expected a whole number of at least 1, {expected}")

    def describe(self) -> dict[str, Any]:
        return {"task": "language_modeling", "unit": UNITS[self.corpus.vocabulary.kind]}

    def local_files(self, split: str) -> Part:
        path = Path(self.corpus[split]).expanduser()
        if not path.is_file():
            raise UserError(f"missing file: corpus.{split}={path}; give the path of a text, plain or .gz")
        return (path,)

    def generate(self) -> Mapping[str, Sequence[Lines]]:
        return _generate(self.corpus.seed, tuple((str(name), int(size)) for name, size in self.corpus.sizes.items()))

    def foresee_splits(self) -> dict[str, Counts]:
        return {split: {"lines": lines, "words": words} for split, (lines, words, _) in self._measure().items()}

    def foresee_vocabulary(self) -> int | None:
        size = self.corpus.vocabulary.size
        if not self.of_words:
            return size - OUTSIDE
        published = self.corpus.kind == "published"
        types = self.corpus.splits.train.get("types") if published else self._measure()["train"][2]
        known = [words for words in (size, types) if words is not None]
        return min(known) + BESIDE if known else None

    def _measure(self) -> dict[str, Size]:
        """Of the user's files or a generated corpus."""
        if self.corpus.kind == "demo":
            return {split: _measure(line for (line,) in lines) for split, lines in self.generate().items()}
        paths = {split: self.local_files(split)[0] for split in SPLITS}
        return {split: _measure_file(path, path.stat().st_mtime_ns) for split, path in paths.items()}

    def write_split(self, split: str, parts: list[Part], folder: Path) -> tuple[Counts, Counts]:
        counts = {"lines": 0, "words": 0}
        reserved = frozenset(RESERVED if self.of_words else ())
        with (folder / f"{split}.txt").open("w", encoding="utf-8", newline="\n") as file:
            for (path,) in parts:
                for number, line in enumerate(read_lines(path), 1):
                    words = line.split()
                    if not reserved.isdisjoint(words):
                        raise UserError(
                            f"{path}, line {number}: the word {next(word for word in words if word in reserved)} is a "
                            "symbol of fairseq's; replace it, or set corpus.vocabulary.kind=bpe"
                        )
                    counts["lines"] += 1
                    counts["words"] += len(words) + 1
                    file.write(f"{line}\n")
        if not counts["lines"]:
            raise UserError(f"{self.corpus.name}: there is no line in {split}")
        return counts, counts

    def train_vocabulary(self, folder: Path, splits: dict[str, Counts]) -> None:
        text, size = folder / "text/train.txt", self.corpus.vocabulary.size
        if self.of_words:
            say("counting words")
            words = count_words(text)
            self.check_published("train", {"types": len(words)})
            write_words(words, size, folder / self.vocabulary_file)
        else:
            say(f"training a vocabulary of {size} pieces")
            lines, sample = splits["train"]["lines"], self.corpus.vocabulary.sample
            train_vocabulary([text], lines, size, sample, folder / self.vocabulary_file, _spaced, **AS_IT_IS)

    def binarise(self, folder: Path, splits: list[str], target: Path, workers: int) -> None:
        """Write also `target/report.json`: the vocabulary's size, and the tokens of each split that it lacks."""
        texts = {split: folder / f"text/{split}.txt" for split in splits}
        vocabulary, dictionary = folder / self.vocabulary_file, target / "dict.txt"
        unknown: Counter[str] = Counter()
        if self.of_words:
            shutil.copyfile(vocabulary, dictionary)
            index = read_words(dictionary)
            entries = len(index)
            for split, text in texts.items():
                encoded = encode_words(read_lines(text), index)
                write_lines(target / split, _count_unknown(encoded, MISSING, unknown, split), entries)
        else:
            entries = write_pieces(vocabulary, dictionary)
            with piece_encoder(vocabulary, texts.values(), workers) as encode:
                for split, text in texts.items():
                    encoded = encode(_spaced_blocks(text))
                    write_lines(target / split, _count_unknown(encoded, SPECIAL["unk_id"], unknown, split), entries)
        write_json(target / "report.json", {"vocabulary": entries - OUTSIDE, "unknown": unknown})

    def finish(self, target: Path, splits: dict[str, Counts]) -> int:
        report = json.loads((target / "report.json").read_text(encoding="utf-8"))
        for split, counts in splits.items():
            tokens, unknown = count_tokens(target / split, report["vocabulary"] + OUTSIDE), report["unknown"][split]
            splits[split] = {"lines": counts["lines"], "tokens": tokens, "words": counts["words"], "unknown": unknown}
        return report["vocabulary"]


def _spaced(text: Path) -> Iterator[str]:
    """The lines with one space between words: pieces hold no other whitespace, which no dictionary file could."""
    return (" ".join(line.split()) for line in read_lines(text))


def _spaced_blocks(text: Path) -> Iterator[bytes]:
    return ("\n".join([*lines, ""]).encode() for lines in batches(_spaced(text), BATCH))


def _count_unknown(encoded: Iterable[Encoded], lacking: int, unknown: Counter[str], split: str) -> Iterator[Encoded]:
    """Count the ids `lacking` in `unknown[split]`, and make them `<unk>`."""
    for ids, sizes in encoded:
        places = ids == lacking
        unknown[split] += int(places.sum())
        ids[places] = SPECIAL["unk_id"]
        yield ids, sizes


def _measure(lines: Iterable[str]) -> Size:
    count, words, types = 0, 0, {UNKNOWN}
    for line in lines:
        found = line.split()
        count += 1
        words += len(found) + 1
        types.update(found)
    return count, words, len(types) - 1


@cache  # a sweep asks for every one of its runs
def _measure_file(path: Path, changed: int) -> Size:
    return _measure(read_lines(path))


@cache
def _generate(seed: int, sizes: tuple[tuple[str, int], ...]) -> Mapping[str, Sequence[Lines]]:
    from memtrans.corpora import demo_lm

    documents = demo_lm.generate(seed, dict(sizes))
    return {split: [(line,) for each in texts for line in each.lines] for split, texts in documents.items()}
