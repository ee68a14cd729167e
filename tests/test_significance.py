"""Paired tests, intervals over seeds and sentences, corrections: known values, coverage, and the committed evidence."""

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sacrebleu.metrics import BLEU
from scipy import stats

from memtrans.errors import UserError
from memtrans.records import load_all
from memtrans.significance import Difference, holm, load_comparisons
from memtrans.significance.sentences import bleu, paired_tests, resample, statistics

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results"
REFERENCES, BASELINE, SYSTEM = ("9c25a1cb06f93abe", "4f46241649bae23d", "15da4a9eb4fa6349")  # runs: real text


def translations(run: str, lines: int = 200) -> list[str]:
    return (RESULTS / f"hypotheses/{run}.test.txt").read_text(encoding="utf-8").split("\n")[:lines]


def test_holm_as_r_has_it() -> None:
    """p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm") of R."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_over_seeds_alone_it_is_the_t_test() -> None:
    values = [-0.55, -0.72, -0.51]
    found = Difference(dict(enumerate(values)))
    other = stats.ttest_1samp(values, 0)
    assert found.p_value() == pytest.approx(other.pvalue, abs=1e-6)
    assert found.interval() == pytest.approx(tuple(other.confidence_interval()), abs=1e-6)
    assert found.p_value(-0.6) == pytest.approx(stats.ttest_1samp(values, -0.6).pvalue, abs=1e-6)
    assert found.over == "seeds"


def test_sentences_widen_what_seeds_agree_on() -> None:
    """Three seeds that agree by luck are still of one sample of sentences: by what these do to all of them."""
    seeds = {1: -2.89, 2: -2.91, 3: -2.87}
    sentences = tuple(stats.norm.ppf((np.arange(200) + 0.5) / 200, -2.89, 0.34))
    for one, shared in ((0.34, 0.34), (0.52, math.sqrt((3 * 0.34**2 - 0.52**2) / 2))):
        found = Difference(seeds, sentences, one)
        low, high = found.interval() or (0, 0)
        assert high - low == pytest.approx(2 * 1.96 * shared, rel=0.05)
    alone = Difference(seeds).interval() or (0, 0)
    assert alone[1] - alone[0] < 0.11
    assert found.over == "seeds and sentences"


def test_one_seed_has_sentences_or_nothing() -> None:
    assert Difference({1: 0.4}).interval() is None
    assert Difference({1: 0.4}).p_value() is None
    found = Difference({1: 0.4}, tuple(np.linspace(0.1, 0.7, 200)), 0.2)
    assert found.interval() == pytest.approx((0.115, 0.685))
    assert found.over == "sentences, one seed"
    assert found.seeds_for(1.0, 0.05) is None


@pytest.mark.parametrize(("effect", "seeds"), [(0.5, 34), (0.8, 15), (1.0, 10)])
def test_seeds_to_decide_as_gpower_has_them(effect: float, seeds: int) -> None:
    """One-sample t-test, two tails, level 0.05, power 0.8, by effect size in standard deviations."""
    values = {1: -1.0, 2: 0.0, 3: 1.0}  # of standard deviation 1
    assert Difference(values).seeds_for(effect, 0.05) == seeds


def test_no_number_of_seeds_makes_up_for_a_small_test_set() -> None:
    shared = tuple(stats.norm.ppf((np.arange(200) + 0.5) / 200, 0.1, 0.5))
    found = Difference({1: 0.0, 2: 0.1, 3: 0.2}, shared, 0.5)  # the sentences do the same to one seed and to the mean
    assert math.isinf(found.seeds_for(0.5, 0.05) or 0)
    assert (found.seeds_for(5.0, 0.05) or math.inf) < 5


@pytest.mark.parametrize(("seed", "own", "shared"), [(0.5, 0.1, 0.1), (0.1, 0.5, 0.1), (0.3, 0.3, 0.3), (0, 0.5, 0)])
def test_intervals_cover_the_truth(seed: float, own: float, shared: float) -> None:
    """Three seeds, 100 sentences, 1000 times: 95% (more or less by chance) cover 0; by resampled seeds, fewer may."""
    random, repeats, sentences = np.random.default_rng(0), 1000, 100
    covered = resampled = 0
    for _ in range(repeats):
        scores = seed * random.normal(size=(3, 1)) + 10 * shared * random.normal(size=(1, sentences))
        scores = scores + 10 * own * random.normal(size=(3, sentences))
        draws = random.multinomial(sentences, np.full(sentences, 1 / sentences), size=200) / sentences
        means = draws @ scores.T
        one = float(np.sqrt(means.var(0).mean()))
        found = Difference(dict(enumerate(scores.mean(1))), tuple(np.sort(means.mean(1))), one)
        covered += (found.p_value() or 0) >= 0.05
        picked = np.take_along_axis(means, random.integers(3, size=means.shape), 1).mean(1)
        low, high = np.quantile(picked, [0.025, 0.975])
        resampled += low <= 0 <= high
    assert 0.935 < covered / repeats < 0.975
    if seed > own:
        assert resampled / repeats < 0.9  # why seeds are not resampled


def test_bleu_of_sums_is_sacrebleus() -> None:
    references, system = translations(REFERENCES), translations(SYSTEM)
    expected = BLEU().corpus_score(system, [references]).score
    assert float(bleu(statistics(system, references).sum(0))) == pytest.approx(expected, abs=1e-9)


def test_paired_tests_are_those_of_the_command_line(tmp_path: Path) -> None:
    texts = {name: translations(run) for name, run in (("r", REFERENCES), ("a", BASELINE), ("b", SYSTEM))}
    for name, lines in texts.items():
        (tmp_path / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    found = paired_tests(texts["b"], texts["a"], texts["r"])
    for kind, p, signature in (
        ("bs", found.bootstrap_p, found.signatures[0]),
        ("ar", found.randomisation_p, found.signatures[1]),
    ):
        options = [
            f"--paired-{kind}",
            f"--paired-{kind}-n",
            "2000" if kind == "bs" else "10000",
            "-m",
            "bleu",
            "-f",
            "json",
        ]
        command = [sys.executable, "-m", "sacrebleu", "r", "-i", "a", "b", *options]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=True)
        _, system = json.loads(done.stdout)
        assert system["BLEU"]["p_value"] == pytest.approx(p, abs=1e-9)
        assert f"{kind}:" in signature
        assert "seed:12345" in signature


def test_resampling_draws_the_same_sentences_for_all_seeds() -> None:
    references = translations(REFERENCES)
    system, baseline = (statistics(translations(run), references) for run in (SYSTEM, BASELINE))
    one, deviation = resample([system], [baseline])
    three, same = resample([system] * 3, [baseline] * 3)
    assert three == pytest.approx(one)  # three equal seeds know no more than one
    assert same == pytest.approx(deviation)
    assert float(one.std()) == pytest.approx(deviation, rel=0.02)
    nothing, none = resample([system], [system])
    assert not nothing.any()
    assert none == 0


def test_committed_evidence_is_of_the_committed_records() -> None:
    by_setting: dict[str, list] = {}
    for record in load_all(RESULTS / "records"):
        by_setting.setdefault(record.setting, []).append(record)
    comparisons = load_comparisons(RESULTS)
    assert comparisons
    for (setting, against), comparison in comparisons.items():
        rows, others = by_setting[setting], by_setting[against]
        assert comparison.fits(rows, others)
        assert not comparison.fits(rows[:-1], others)
        scores = {record.seed: record.headline.value for record in rows}
        base = {record.seed: record.headline.value for record in others}
        assert comparison.difference.by_seed == pytest.approx({seed: scores[seed] - base[seed] for seed in scores})


def test_broken_evidence_is_named(tmp_path: Path) -> None:
    shutil.copytree(RESULTS / "significance", tmp_path / "significance")
    path = sorted((tmp_path / "significance").iterdir())[0]
    content = json.loads(path.read_text())
    for change, message in (
        ({"references": None}, "references"),
        ({"pairs": []}, "expected some of each"),
        ({"bootstrap_signature": "nrefs:1"}, "bootstrap_signature: expected sacreBLEU's"),
        ({"setting": "0123456789abcdef"}, "named after other settings"),
    ):
        path.write_text(json.dumps(content | change))
        with pytest.raises(UserError, match=message) as caught:
            load_comparisons(tmp_path)
        assert path.name in str(caught.value)


def test_command_needs_the_corpus_only_for_what_is_not_there_yet(tmp_path: Path) -> None:
    for name in ("records", "hypotheses", "significance"):
        shutil.copytree(RESULTS / name, tmp_path / name)
    shutil.copy(RESULTS / "claims.yaml", tmp_path)
    command = [
        sys.executable,
        "-m",
        "scripts.significance",
        "--results",
        str(tmp_path),
        "--data",
        str(tmp_path / "none"),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "0 comparisons written" in done.stdout
    sorted((tmp_path / "significance").iterdir())[0].unlink()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "scripts.prepare corpus=multi30k" in done.stderr
    assert len(done.stderr.splitlines()) == 2  # what it was at, and why not
