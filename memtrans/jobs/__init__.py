"""What a run does with its corpus, translation or language modelling: all that differs between the two.

One module each, with what `Job` lists; the rest of the harness calls it and asks nowhere which of the two it is. A
corpus says its task (none: translation), and so do the variants, sizes and protocols that are for language models.
Nothing heavy is imported before something is scored.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from memtrans.jobs import language_modeling, translation
from memtrans.records import Hypotheses, Score

if TYPE_CHECKING:
    from memtrans.runs import Run


class Job(Protocol):
    """The functions of a job's module."""

    IN_HALF: bool  # whether a model trained in half precision on a GPU is scored in it

    def fill(self, train: Mapping[str, Any]) -> float:
        """The part of the target positions of a full batch that holds real tokens."""

    def corpus_identity(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """What of the corpus decides a result."""

    def check(self, values: Mapping[str, Any]) -> None:
        """Refuse `model`, `train` and `protocol` settings that cannot work. Raises UserError."""

    def task_arguments(self, run: "Run") -> list[str]:
        """fairseq's arguments that name the data and the task."""

    def training_tokens(
        self, train: Mapping[str, Any], manifest: Mapping[str, Any], generated: bool = False
    ) -> tuple[float, str]:
        """Target tokens that a run sees, and where the number comes from. `manifest` may be a foreseen corpus'.

        Raises UserError if that is not known before the corpus is prepared.
        """

    def weights(self, model: Mapping[str, Any], vocabulary: int) -> int:
        """Roughly the weights that work on every token."""

    def small_batches(self, train: Mapping[str, Any], tokens: int) -> dict[str, Any]:
        """Training options for batches of at most about `tokens`."""

    def made_up(self, train: Mapping[str, Any], vocabulary: int) -> tuple[list[str], dict[str, int] | None]:
        """For a warm-up: the task's arguments on made-up data, and what `warmup` must write of it, if anything."""

    def epochs(self, meters: Mapping[str, Any], train_split: Mapping[str, Any]) -> float:
        """Epochs seen, from fairseq's meters of the whole training and the manifest's counts of the training set."""

    def score_split(
        self, run: "Run", model: Any, task: Any, split: str, protocol: Mapping[str, Any], kept: Path | None
    ) -> list[Score]:
        """All scores of one split, the headline's first. What is done already is taken from the folder `kept`."""

    def hypotheses(self, run: "Run") -> Hypotheses | None:
        """Keep the scored output beside the records, if there is any to keep."""


JOBS: dict[str, Job] = {"translation": translation, "language_modeling": language_modeling}


def task_of(named: Mapping[str, Any]) -> str:
    """The task of a corpus' config, manifest or identity, or of another group's config."""
    return named.get("task") or "translation"


def job_of(corpus: Mapping[str, Any]) -> Job:
    """The job of a corpus' config, manifest or identity."""
    return JOBS[task_of(corpus)]
