"""Corpora of sentence pairs: cleaned for training, one joint sentencepiece BPE, two binarised texts a split."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from memtrans.corpora.binarise import binarise, count_tokens
from memtrans.corpora.clean import Rules, clean
from memtrans.corpora.task import SPLITS, Counts, Lines, Part, Task
from memtrans.corpora.text import read_lines, read_pairs
from memtrans.corpora.vocabulary import train_vocabulary
from memtrans.errors import UserError
from memtrans.progress import say


class Translation(Task):
    """`text/<split>.<lang>`, `spm.model`, `bin/<split>.<src>-<tgt>.<lang>.{bin,idx}`, `bin/dict.<lang>.txt`."""

    published = ("pairs",)
    generator = sorted((Path(__file__).parent / "demo").glob("*.py"))
    vocabulary_file = "spm.model"

    def __init__(self, corpus: DictConfig) -> None:
        super().__init__(corpus)
        self.evaluation: set[tuple[str, str]] = set()  # the pairs of all splits but train

    @property
    def sides(self) -> tuple[str, str]:
        return self.corpus.source_lang, self.corpus.target_lang

    def check(self) -> None:
        source, target = self.sides
        if source == target:
            raise UserError(f"corpus {self.corpus.name}: source_lang and target_lang are both {source}")

    def describe(self) -> dict[str, Any]:
        return {"source_lang": self.corpus.source_lang, "target_lang": self.corpus.target_lang}

    def local_files(self, split: str) -> Part:
        """Found as <prefix>.<lang> or <prefix>.<lang>.gz."""
        prefix = Path(self.corpus[split]).expanduser()
        files = []
        for language in self.sides:
            plain, zipped = Path(f"{prefix}.{language}"), Path(f"{prefix}.{language}.gz")
            files.append(plain if plain.is_file() else zipped)
            if not files[-1].is_file():
                raise UserError(
                    f"missing file: corpus.{split}={prefix} needs {plain} or {zipped}; "
                    f"give the path without .{language}, and the languages as corpus.source_lang and corpus.target_lang"
                )
        return tuple(files)

    def generate(self) -> Mapping[str, Sequence[Lines]]:
        from memtrans.corpora import demo

        return demo.generate(self.corpus.seed, {str(name): int(size) for name, size in self.corpus.sizes.items()})

    def foresee_splits(self) -> dict[str, Counts]:
        if self.corpus.kind == "demo":
            return {str(name): {"pairs": size} for name, size in self.corpus.sizes.items()}
        return {split: {"pairs": sum(1 for _ in read_lines(self.local_files(split)[-1]))} for split in SPLITS}

    def foresee_vocabulary(self) -> int:
        return self.corpus.vocabulary.size

    def write_split(self, split: str, parts: list[Part], folder: Path) -> tuple[Counts, Counts]:
        published, written = 0, 0  # published counts leave out pairs with an empty side
        dropped: Counter[str] = Counter()

        def read() -> Iterator[tuple[str, str]]:
            nonlocal published
            for source, target in parts:
                for pair in read_pairs(source, target):
                    published += all(pair)
                    yield pair[0].rstrip(), pair[1].rstrip()

        rules = Rules(self.corpus.clean.max_characters, self.corpus.clean.max_ratio)
        kept = clean(read(), rules, self.evaluation, dropped) if split == "train" else read()
        with ExitStack() as stack:
            paths = [folder / f"{split}.{language}" for language in self.sides]
            files = [stack.enter_context(path.open("w", encoding="utf-8", newline="\n")) for path in paths]
            for source, target in kept:
                written += 1
                files[0].write(f"{source}\n")
                files[1].write(f"{target}\n")
                if split != "train":
                    self.evaluation.add((source, target))
        if not written:
            raise UserError(f"{self.corpus.name}: no pair left in {split} of {published} read ({dict(dropped)})")
        return {"pairs": published}, {"pairs": written, "dropped": dict(sorted(dropped.items()))}

    def train_vocabulary(self, folder: Path, splits: dict[str, Counts]) -> None:
        size, sample = self.corpus.vocabulary.size, self.corpus.vocabulary.sample
        say(f"training a vocabulary of {size} pieces")
        texts = [folder / f"text/train.{language}" for language in self.sides]
        train_vocabulary(texts, splits["train"]["pairs"], size, sample, folder / self.vocabulary_file)

    def binarise(self, folder: Path, splits: list[str], target: Path, workers: int) -> None:
        binarise(folder / "text", folder / self.vocabulary_file, self.sides, splits, target, workers)

    def finish(self, target: Path, splits: dict[str, Counts]) -> int:
        for split, counts in splits.items():
            prefix = target / f"{split}.{'-'.join(self.sides)}"
            for kind, language in zip(("source_tokens", "target_tokens"), self.sides, strict=True):
                counts[kind] = count_tokens(Path(f"{prefix}.{language}"), self.corpus.vocabulary.size)
        return self.corpus.vocabulary.size
