"""`results/claims.yaml`: what was published, put as tests, each with where it was found and how surely."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import yaml

from memtrans.errors import UserError, did_you_mean
from memtrans.strict import build, strict
from memtrans.sweeps_spec import SweepSpec


@strict
class Test:
    """`row` is better or worse than the row `than`; with `by`, by at least that fraction of the score of `than`."""

    __test__ = False  # no test of ours, whatever pytest thinks of the name

    row: str
    direction: Literal["better", "worse"]
    than: str
    by: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.by < 1:
            raise UserError(f"by: expected a fraction from 0 up to 1, found {self.by}")

    @property
    def text(self) -> str:
        margin = f"{self.by:.0%} " if self.by else ""
        return f"{self.row} {margin}{self.direction} than {self.than}"


@strict
class Claim:
    """One published statement: it holds on a corpus if all of its tests hold there."""

    id: str
    says: str
    source: str
    certainty: Literal["P", "S", "R"]
    sweeps: tuple[str, ...]  # the tables that it is tested on
    tests: tuple[Test, ...]

    def __post_init__(self) -> None:
        if not self.tests or not self.sweeps:
            raise UserError(f"claim {self.id}: expected at least one test and one sweep")


@strict
class _Claims:
    claims: tuple[Claim, ...]


def load_claims(path: Path, sweeps: Mapping[str, SweepSpec]) -> tuple[Claim, ...]:
    """The claims of a file; none without it. Raises UserError for what is unknown: the file and the field."""
    if not path.exists():
        return ()
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{path}: cannot be read as YAML: {' '.join(str(error).split())}") from None
    claims = build(_Claims, _with_direction(content), path).claims
    names = [claim.id for claim in claims]
    for claim in claims:
        if names.count(claim.id) > 1:
            raise UserError(f"{path}: id: a second claim {claim.id!r}; rename one")
        for sweep in claim.sweeps:
            if sweep not in sweeps:
                raise UserError(f"{path}: claim {claim.id}: no such sweep {sweep!r}; {did_you_mean(sweep, sweeps)}")
            _check_rows(claim, sweeps[sweep], path)
    return claims


def _check_rows(claim: Claim, sweep: SweepSpec, path: Path) -> None:
    labels = [row.label for row in sweep.rows]
    for label in [label for test in claim.tests for label in (test.row, test.than)]:
        if label not in labels:
            raise UserError(
                f"{path}: claim {claim.id}: sweep {sweep.name} has no row {label!r}; {did_you_mean(label, labels)}"
            )


def _with_direction(content: object) -> object:
    """`is` is a word of Python, so the field is `direction`; whatever is not of this shape is left to be refused."""
    if isinstance(content, Mapping):
        return {("direction" if key == "is" else key): _with_direction(value) for key, value in content.items()}
    return [_with_direction(item) for item in content] if isinstance(content, list) else content
