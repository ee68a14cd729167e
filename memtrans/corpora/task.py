"""What preparing a corpus does differently for each task: a class for translation, one for language modelling."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from memtrans.errors import UserError

SPLITS = ("train", "valid", "test")  # of a corpus that is not published
Counts = dict[str, Any]
Lines = tuple[str, ...]  # of a generated corpus: one line for each side
Part = tuple[Path, ...]  # a part of a split: one file for each side


class Task(ABC):
    """A corpus' steps. A split is one text a *side*: two languages, or just one; prepared as `text/<split>.<side>`.

    Methods that read the config raise omegaconf's `MissingMandatoryValue` for what the user has yet to give.
    """

    published: tuple[str, ...]  # the counts of a split that a config may name, to be checked
    generator: list[Path]  # the source files of the generated corpus

    def __init__(self, corpus: DictConfig) -> None:
        self.corpus = corpus

    @property
    @abstractmethod
    def sides(self) -> tuple[str, ...]:
        """The endings of a split's texts, which are also the keys of a published part."""

    @property
    @abstractmethod
    def vocabulary_file(self) -> str:
        """The file whose presence means that the vocabulary is there."""

    @abstractmethod
    def check(self) -> None:
        """Raise UserError for settings that cannot work, before anything is done."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """What the manifest says of the corpus beside its counts."""

    @abstractmethod
    def local_files(self, split: str) -> Part:
        """The user's files of a split. Raises UserError if they are not there."""

    @abstractmethod
    def generate(self) -> Mapping[str, Sequence[Lines]]:
        """The generated corpus, by split."""

    @abstractmethod
    def foresee_splits(self) -> dict[str, Counts]:
        """What there is to count before anything is prepared, of the user's files or of a generated corpus."""

    @abstractmethod
    def foresee_vocabulary(self) -> int | None:
        """The size of the vocabulary, if that is known beforehand."""

    @abstractmethod
    def write_split(self, split: str, parts: list[Part], folder: Path) -> tuple[Counts, Counts]:
        """Write `folder/<split>.<side>`, train after all others; return what was read and what is to be reported."""

    @abstractmethod
    def train_vocabulary(self, folder: Path, splits: dict[str, Counts]) -> None:
        """Make the vocabulary of `folder/text`; write `folder/<vocabulary_file>`, whole, when all else is there."""

    @abstractmethod
    def binarise(self, folder: Path, splits: list[str], target: Path, workers: int) -> None:
        """Encode `folder/text` and write it to `target`, in fairseq's memory-mapped format."""

    @abstractmethod
    def finish(self, target: Path, splits: dict[str, Counts]) -> int:
        """Add to the report of each split what `binarise` has counted; return the size of the vocabulary."""

    def check_published(self, split: str, counts: Counts) -> None:
        """Raise UserError if a split is not as its publisher says, as far as the config repeats that."""
        expected = self.corpus.splits[split] if "splits" in self.corpus else {}
        for unit, count in counts.items():
            if expected.get(unit) not in (None, count):
                setting = f"corpus.splits.{split}.{unit}"
                raise UserError(
                    f"{self.corpus.name}: {split} has {count} {unit}, expected {expected[unit]} ({setting}); "
                    f"if that is intended, set {setting}=null"
                )
