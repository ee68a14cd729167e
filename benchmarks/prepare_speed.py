"""How fast a translation corpus is prepared: `python benchmarks/prepare_speed.py --pairs 1000000`; prints Markdown.

Random sentence pairs: made-up words with the frequencies of words (Zipf-Mandelbrot, so that new ones never cease),
lengths log-normal. One vocabulary of 32,000 pieces, trained beforehand and timed apart, serves two ways, in turn:

- the usual one: sentencepiece from Python, whole lines in batches, a process for each language; then fairseq-preprocess
  with a worker for each core;
- this project's `prepare`, with checksums and cleaning, from start to end of its process.

Nothing in the text is to be dropped, so both must write the same bytes of ids, which is checked. Memory is the peak of
all processes of a way together, shared pages counted once (PSS).
"""

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from itertools import islice, product
from pathlib import Path

import numpy as np
from omegaconf import OmegaConf

ROOT = Path(__file__).resolve().parent.parent
LANGUAGES = "de", "en"
TYPES, EXPONENT, SHIFT = 1_000_000, 1.15, 3.0  # different words, and how their frequency falls with their rank
PIECES, SAMPLE = 32_000, 200_000  # of the vocabulary, and the sentences that it is trained on
WMT_PAIRS = 4_508_785
BATCH = 10_000  # sentences made or encoded at once
ONSETS, CODAS = "|b|d|f|g|h|k|l|m|n|p|r|s|t|v|w|z|br|dr|fr|gr|kl|kr|pl|pr|sch|sp|st|tr", "|n|r|l|s|t|m|ng|nd|st|ch"
NUCLEI = {"de": "a|e|i|o|u|ei|au|ie|ä|ö|ü|eu", "en": "a|e|i|o|u|ei|au|ie|ea|oo|ou"}


def make_words(language: str) -> np.ndarray:
    """Made-up words by falling frequency, the frequent ones short; object array of TYPES str."""
    rng = np.random.default_rng(LANGUAGES.index(language))
    choices = (letters.split("|") for letters in (ONSETS, NUCLEI[language], CODAS))
    syllables = np.array(["".join(parts) for parts in product(*choices)], object)
    rng.shuffle(syllables)
    weights = 1 / np.arange(1, len(syllables) + 1)
    rank = np.log10(np.arange(TYPES) + 1) / 7
    count = 1 + (rank > 0.25) + (rng.random(TYPES) < rank) + (rng.random(TYPES) < rank - 0.4)
    words = np.full(TYPES, "", object)
    for number in range(count.max()):
        longer = count > number
        words[longer] += rng.choice(syllables, longer.sum(), p=weights / weights.sum())
    return words


def make_corpus(folder: Path, pairs: int) -> None:
    """Write `folder/{train,valid,test}.{de,en}`; a few pairs less than `pairs`, none of them to be dropped."""
    rng = np.random.default_rng(0)
    share = np.cumsum((np.arange(TYPES) + SHIFT) ** -EXPONENT)
    vocabulary = [make_words(language) for language in LANGUAGES]

    def sentences(words: np.ndarray, lengths: np.ndarray) -> list[str]:
        ends = np.cumsum(lengths)
        drawn = words[np.searchsorted(share, rng.random(ends[-1]) * share[-1])]
        drawn[rng.random(len(drawn)) < 0.06] += ","
        drawn[ends - 1] += ".\n"
        return " ".join(drawn.tolist()).replace("\n ", "\n").splitlines(keepends=True)

    for split, count in (("train", pairs), ("valid", 1000), ("test", 2000)):
        with ExitStack() as stack:
            files = [stack.enter_context((folder / f"{split}.{language}").open("w")) for language in LANGUAGES]
            for first in range(0, count, BATCH):
                source = np.clip(rng.lognormal(2.8, 0.6, min(BATCH, count - first)), 5, 70).astype(int)  # words
                target = np.clip(source * rng.normal(1.1, 0.1, len(source)), 5, 70).astype(int)
                both = sentences(vocabulary[0], source), sentences(vocabulary[1], target)
                kept = [
                    pair for pair in zip(*both, strict=True) if max(map(len, pair)) < min(1000, 2 * min(map(len, pair)))
                ]
                for file, lines in zip(files, zip(*kept, strict=True), strict=True):
                    file.writelines(lines)


def train(texts: Path, pairs: int, model: Path) -> None:
    """The vocabulary, as the project trains it."""
    from memtrans.corpora.vocabulary import train_vocabulary

    train_vocabulary([texts / f"train.{language}" for language in LANGUAGES], pairs, PIECES, SAMPLE, model)


def encode(texts: Path, model: Path, language: str, target: Path) -> None:
    """The usual way, first step: pieces as text, of one language."""
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
    for split in ("train", "valid", "test"):
        with (texts / f"{split}.{language}").open() as lines, (target / f"{split}.{language}").open("w") as file:
            while batch := [line.rstrip("\n") for line in islice(lines, BATCH)]:
                file.writelines(f"{' '.join(pieces)}\n" for pieces in processor.encode(batch, out_type=str))


def ours(texts: Path, model: Path, target: Path) -> None:
    """This project's way, with the vocabulary that is already there."""
    from memtrans.corpora import prepare, translation

    corpus = OmegaConf.load(ROOT / "configs/corpus/local.yaml")
    corpus.source_lang, corpus.target_lang = LANGUAGES
    corpus.vocabulary.size = PIECES
    for split in ("train", "valid", "test"):
        corpus[split] = str(texts / split)
    translation.train_vocabulary = lambda *arguments: shutil.copyfile(model, arguments[-1])
    prepare(corpus, target)


@dataclass
class Cost:
    """What a way took: seconds from start to end, seconds of all cores together, peak memory in bytes."""

    wall: float
    cpu: float
    memory: float


def run(commands: list[list[str]]) -> Cost:
    """Run commands side by side, until the last one ends. Exits if one fails."""
    start, before, peak = time.perf_counter(), cpu_seconds(), 0
    processes = [
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for command in commands
    ]
    while any(process.poll() is None for process in processes):
        peak = max(peak, sum(memory(pid) for process in processes for pid in family(process.pid)))
        time.sleep(0.25)
    wall = time.perf_counter() - start
    if any(process.returncode for process in processes):
        sys.exit(f"failed: {commands}")
    return Cost(wall, cpu_seconds() - before, peak)


def cpu_seconds() -> float:
    """Of all processes that have ended below this one."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def family(pid: int) -> Iterator[int]:
    """A process and all below it."""
    yield pid
    try:
        for tasks in Path(f"/proc/{pid}/task").iterdir():
            for child in (tasks / "children").read_text().split():
                yield from family(int(child))
    except OSError:  # it has ended meanwhile
        return


def memory(pid: int) -> int:
    """Bytes that a process holds, of pages that it shares with others its share; 0 when it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)


def usual_way(texts: Path, model: Path, target: Path) -> Cost:
    """Both steps."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    first = run([[*SELF, "encode", *map(str, (texts, model)), language, str(target)] for language in LANGUAGES])
    pieces = (line.split("\t")[0] for line in model.with_suffix(".vocab").read_text().split("\n")[4:-1])
    (target / "dict.txt").write_text("".join(f"{piece} 1\n" for piece in pieces))
    command = [str(Path(sys.executable).with_name("memtrans-fairseq")), "preprocess"]
    command += ["--source-lang", LANGUAGES[0], "--target-lang", LANGUAGES[1], "--joined-dictionary"]
    command += ["--srcdict", str(target / "dict.txt"), "--destdir", str(target / "bin")]
    command += ["--workers", str(len(os.sched_getaffinity(0)))]
    for split in ("train", "valid", "test"):
        command += [f"--{split}pref", str(target / split)]
    second = run([command])
    return Cost(first.wall + second.wall, first.cpu + second.cpu, max(first.memory, second.memory))


def our_way(texts: Path, model: Path, target: Path) -> Cost:
    shutil.rmtree(target, ignore_errors=True)
    return run([[*SELF, "ours", *map(str, (texts, model, target))]])


def check_same(theirs: Path, ours: Path) -> None:
    """Exit if the ids that both have written differ."""
    (folder,) = ours.glob("prepared/*/bin")
    for split in ("train", "valid", "test"):
        for language in LANGUAGES:
            name = f"{split}.{'-'.join(LANGUAGES)}.{language}"
            for kind in ("bin", "idx"):
                if subprocess.run(["cmp", theirs / f"bin/{name}.{kind}", folder / f"{name}.{kind}"]).returncode:
                    sys.exit(f"both ways differ in {name}.{kind}")


def measure(folder: Path, pairs: int, repeats: int, alone: int | None) -> None:
    """Measure both ways at `pairs` and, once, a quarter of them, ours also `alone`; print the tables."""
    ways = {"sentencepiece, fairseq-preprocess": usual_way, "ours": our_way}
    cores, model = len(os.sched_getaffinity(0)), folder / "spm.model"
    costs: dict[tuple[str, int], list[Cost]] = {}
    for size in filter(None, (pairs, pairs // 4, alone)):
        texts = folder / f"text{size}"
        texts.mkdir()
        make_corpus(texts, size)
        if not model.exists():
            start = time.perf_counter()
            train(texts, size, model)
            print(f"vocabulary of {PIECES:,} pieces, {SAMPLE:,} sentences: {time.perf_counter() - start:.0f} s\n")
        for _ in range(repeats if size == pairs else 1):
            for name, way in ways.items():
                if size != alone or name == "ours":
                    costs.setdefault((name, size), []).append(way(texts, model, folder / name.partition(",")[0]))
        if size != alone:
            check_same(folder / "sentencepiece", folder / "ours")
        shutil.rmtree(texts)
    versions = ", ".join(f"{name} {version(name)}" for name in ("sentencepiece", "fairseq", "numpy"))
    print(f"{cores} CPU cores, load {os.getloadavg()[0]:.1f}, Python {sys.version.split()[0]}, {versions}\n")
    print("| way | pairs | s | pairs/s, median (range) | CPU s | peak MB |\n|---|---:|---:|---:|---:|---:|")
    for (name, size), taken in costs.items():
        walls = sorted(cost.wall for cost in taken)
        low, middle, high = (f"{size / wall:,.0f}" for wall in (walls[-1], statistics.median(walls), walls[0]))
        cpu, memory = statistics.median(cost.cpu for cost in taken), max(cost.memory for cost in taken)
        print(f"| {name} | {size:,} | {statistics.median(walls):.0f} | {middle} ({low} to {high}) ", end="")
        print(f"| {cpu:.0f} | {memory / 1e6:.0f} |")
    rounds = list(zip(*(costs[name, pairs] for name in ways), strict=True))
    for unit, ratios in (
        ("seconds", [theirs.wall / own.wall for theirs, own in rounds]),
        ("CPU seconds", [theirs.cpu / own.cpu for theirs, own in rounds]),
    ):
        print(f"\nratio of {unit} at {pairs:,} pairs, round by round: {', '.join(f'{ratio:.1f}' for ratio in ratios)}")
    print(f"\n{WMT_PAIRS:,} pairs of this kind (as many as WMT-14) at the median rate, {cores} cores: ", end="")
    medians = {name: statistics.median(cost.wall for cost in costs[name, pairs]) for name in ways}
    print(", ".join(f"{name} {WMT_PAIRS / pairs * median / 60:.1f} min" for name, median in medians.items()))


SELF = [sys.executable, str(Path(__file__).resolve())]


def main() -> None:
    if sys.argv[1:2] == ["encode"]:
        texts, model, language, target = sys.argv[2:]
        encode(Path(texts), Path(model), language, Path(target))
    elif sys.argv[1:2] == ["ours"]:
        texts, model, target = map(Path, sys.argv[2:])
        ours(texts, model, target)
    else:
        parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("--pairs", type=int, default=200_000, help="sentence pairs; memory also at a quarter")
        parser.add_argument("--repeats", type=int, default=3, help="rounds, the two ways in turn")
        parser.add_argument("--alone", type=int, help="measure ours once more with this many pairs")
        arguments = parser.parse_args()
        with tempfile.TemporaryDirectory() as folder:
            measure(Path(folder), arguments.pairs, arguments.repeats, arguments.alone)


if __name__ == "__main__":
    main()
