"""Verdicts on claims: supported, contradicted, undecided or not measured, with provenance and correction."""

from pathlib import Path

import pytest
import toy_project
from make_records import record

from memtrans.claims import judge, load_claims
from memtrans.claims.verdicts import Verdict
from memtrans.errors import UserError
from memtrans.sweeps_spec import load_sweeps
from memtrans.tables import build_tables, load_paper

ROOT = Path(__file__).resolve().parent.parent
SWEEP = toy_project.SWEEP + "    - {variant: mem_transformer, memory_tokens: 20}\n"
PAPER = """toy,demo,Transformer,bleu,24.0,,,"a book, page 1",S,
toy,demo,MemTransformer 10,bleu,25.0,,,"a book, page 1",S,
"""
CLAIM = "{{id: {id}, says: So it is, source: a book, certainty: S, sweeps: [toy], tests: [{tests}]}}"


def claims_text(*tests: str) -> str:
    return "claims:\n" + "".join(f"  - {CLAIM.format(id=f'c{i}', tests=test)}\n" for i, test in enumerate(tests))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return toy_project.write_project(tmp_path, PAPER, SWEEP)


def verdicts(project: Path, text: str, scores: dict[str, list[float]]) -> list[Verdict]:
    path = project / "results/claims.yaml"
    path.write_text(text)
    sweeps = load_sweeps(project / "configs")
    records = [record(label, seed, bleu) for label, values in scores.items() for seed, bleu in enumerate(values, 1)]
    tables = build_tables(records, sweeps, load_paper(project / "results/paper.csv"))
    return judge(load_claims(path, sweeps), tables, sweeps, {})


BETTER = "{row: MemTransformer 10, is: better, than: Transformer}"
WORSE = "{row: MemTransformer 10, is: worse, than: Transformer}"
HALF = "{row: MemTransformer 10, is: worse, than: Transformer, by: 0.5}"
SURE = {"Transformer": [30.0, 30.4, 30.2], "MemTransformer 10": [31.0, 31.41, 31.22]}


@pytest.mark.parametrize(
    ("test", "scores", "answer"),
    [
        (BETTER, SURE, "supported"),
        (WORSE, SURE, "contradicted"),
        (BETTER, SURE | {"MemTransformer 10": [31.0, 30.0, 30.5]}, "undecided"),
        (BETTER, {"Transformer": SURE["Transformer"]}, "not measured"),
        (BETTER, {label: values[:1] for label, values in SURE.items()}, "not measured"),  # one seed: no spread
        (HALF, SURE | {"MemTransformer 10": [10.0, 10.4, 10.3]}, "supported"),
        (HALF, SURE | {"MemTransformer 10": [28.0, 28.4, 28.3]}, "contradicted"),  # worse, but not by half
    ],
)
def test_verdicts(project: Path, test: str, scores: dict, answer: str) -> None:
    (verdict,) = verdicts(project, claims_text(test), scores)
    assert verdict.answer == answer


def test_all_tests_of_a_claim_must_hold(project: Path) -> None:
    both = f"{BETTER}, {{row: MemTransformer 20, is: better, than: MemTransformer 10}}"
    scores = SURE | {"MemTransformer 20": [32.0, 30.0, 31.3]}
    (verdict,) = verdicts(project, claims_text(both), scores)
    assert verdict.findings[0].as_claimed
    assert verdict.answer == "undecided"
    (verdict,) = verdicts(project, claims_text(both), SURE | {"MemTransformer 20": [32.0, 32.4, 32.2]})
    assert verdict.answer == "supported"
    assert verdict.p == max(finding.p or 0 for finding in verdict.findings)
    (verdict,) = verdicts(project, claims_text(both), SURE | {"MemTransformer 20": [30.0, 30.41, 30.2]})
    assert verdict.answer == "contradicted"
    assert verdict.p == pytest.approx(2 * (verdict.findings[1].p or 0))  # either of the two could have shown it


def test_many_claims_of_one_corpus_are_corrected_together(project: Path) -> None:
    scores = SURE | {"MemTransformer 10": [30.9, 31.8, 31.2]}
    (alone,) = verdicts(project, claims_text(BETTER), scores)
    assert alone.answer == "supported"
    assert alone.adjusted == alone.p
    among = verdicts(project, claims_text(BETTER, BETTER, BETTER), scores)
    assert [verdict.adjusted for verdict in among] == pytest.approx([3 * (alone.p or 0)] * 3)
    assert {verdict.answer for verdict in among} == {"undecided"}
    needed = [v.seeds_for_found or 0 for v in (alone, among[0])]
    assert 2 <= needed[0] < needed[1]  # a stricter level takes more seeds


def test_published_difference_is_kept_and_plans_are_made_for_it(project: Path) -> None:
    (verdict,) = verdicts(project, claims_text(BETTER), SURE)
    assert verdict.findings[0].published == 1.0
    assert verdict.seeds_for_published == 2
    unknown = "{row: MemTransformer 20, is: better, than: Transformer}"
    (verdict,) = verdicts(project, claims_text(unknown), SURE | {"MemTransformer 20": [31.0, 31.0, 31.0]})
    assert verdict.findings[0].published is None
    assert verdict.seeds_for_published is None
    assert verdict.seeds_for_found


def test_rows_of_other_recipes_are_not_compared(project: Path) -> None:
    (project / "results/claims.yaml").write_text(claims_text(BETTER))
    sweeps = load_sweeps(project / "configs")
    other = {"seed": 1, "model": {"memory_tokens": 0, "betas": [0.9, 0.98], "note": "longer"}}
    records = [record("Transformer", seed, 30.0 + seed) for seed in (1, 2, 3)]
    records += [record("MemTransformer 10", seed, 32.0 + seed, config=other) for seed in (1, 2, 3)]
    tables = build_tables(records, sweeps, {})
    (verdict,) = judge(load_claims(project / "results/claims.yaml", sweeps), tables, sweeps, {})
    assert verdict.answer == "not measured"
    assert "not trained alike: model.note" in verdict.findings[0].why_not


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (claims_text("{row: MemTransformer 11, is: better, than: Transformer}"), "no row 'MemTransformer 11'; did you"),
        (claims_text("{row: MemTransformer 10, is: bigger, than: Transformer}"), "no such value 'bigger'"),
        (claims_text("{row: MemTransformer 10, is: worse, than: Transformer, by: 2}"), "by: expected a fraction"),
        (claims_text(BETTER).replace("[toy]", "[toys]"), "no such sweep 'toys'; did you mean toy"),
        (claims_text(BETTER).replace("source: a book, ", ""), "source: missing"),
        (claims_text(BETTER, BETTER).replace("c1", "c0"), "a second claim 'c0'"),
        ("claims: [", "cannot be read as YAML"),
    ],
)
def test_bad_claims_are_named(project: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        verdicts(project, text, SURE)
    assert "claims.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_claims_of_the_project() -> None:
    """They name rows that the sweeps have, and none of their tests goes against the published numbers."""
    sweeps = load_sweeps(ROOT / "configs")
    claims = load_claims(ROOT / "results/claims.yaml", sweeps)
    paper = load_paper(ROOT / "results/paper.csv")
    tables = build_tables([], sweeps, paper)
    found = [finding for verdict in judge(claims, tables, sweeps, {}) for finding in verdict.findings]
    assert len(claims) == 11
    own = [finding for finding in found if finding.published is not None]
    assert len(own) == len(found)
    assert all(finding.published * finding.claimed > 0 for finding in own if finding.published)
