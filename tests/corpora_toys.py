"""Small stand-ins for the tests of corpora: sentences, archives of the published layout, a server that breaks off."""

import gzip
import hashlib
import io
import random
import tarfile
import threading
import time
import zipfile
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
Pairs = list[tuple[str, str]]


def composed(name: str, *overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose(f"corpus/{name}", overrides=list(overrides)).corpus


def sentences(count: int, seed: int) -> Pairs:
    """Pairs of similar length, of random words, with letters beyond ASCII; none occurs under two seeds."""
    rng = random.Random(seed)

    def sentence(letters: str) -> str:
        words = ("".join(rng.choices(letters, k=rng.randint(2, 9))) for _ in range(rng.randint(9, 12)))
        return f"{' '.join(words)} {seed}."

    return [(sentence("aeiouäöünrstdlhß"), sentence("aeiounrstdlhwyk")) for _ in range(count)]


def lines(pairs: Pairs, side: int) -> bytes:
    return "".join(f"{pair[side]}\n" for pair in pairs).encode()


def write_parallel(prefix: Path, pairs: Pairs, languages: tuple[str, str] = ("de", "en"), zipped: bool = False) -> None:
    for side, language in enumerate(languages):
        content = lines(pairs, side)
        path = Path(f"{prefix}.{language}" + (".gz" if zipped else ""))
        path.write_bytes(gzip.compress(content, mtime=0) if zipped else content)


def sgm(pairs: Pairs, side: int) -> bytes:
    """A development set as the shared task publishes it: not quite XML, one segment a line."""
    kind, language = (("srcset", "de"), ("refset", "en"))[side]
    segments = "".join(f'<seg id="{n}">{pair[side]}</seg>\n' for n, pair in enumerate(pairs, 1))
    return (
        f'<{kind} setid="newstest" srclang="any" trglang="{language}">\n'
        f'<doc docid="a" genre="news" origlang="{language}">\n<p>\n{segments}</p>\n</doc>\n</{kind}>\n'
    ).encode()


def tgz(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


TRAIN = {"training-parallel-europarl-v7": 1, "training-parallel-commoncrawl": 2, "training-parallel-nc-v9": 3}  # seeds
PAIRS = {"train": 1800, "valid": 30, "test": 33}


def wmt_files() -> dict[str, bytes]:
    """Every file that configs/corpus/wmt14_deen.yaml names, small, with the published inner paths and other members."""
    valid, test = sentences(PAIRS["valid"], 13), sentences(PAIRS["test"], 14)
    inner = {
        "training-parallel-europarl-v7": "training/europarl-v7.{0}-en.{1}",
        "training-parallel-commoncrawl": "commoncrawl.{0}-en.{1}",
        "training-parallel-nc-v9": "training/news-commentary-v9.{0}-en.{1}",
    }
    archives: dict[str, dict[str, bytes]] = {}
    for name, seed in TRAIN.items():
        pairs = sentences(PAIRS["train"] // 3, seed)
        archives[name] = {inner[name].format("cs", "en"): b"not needed\n"}
        archives[name] |= {inner[name].format("de", lang): lines(pairs, side) for side, lang in enumerate(("de", "en"))}
    archives["dev"] = {
        "dev/newstest2012.de": b"not needed\n",
        "dev/newstest2013-src.de.sgm": sgm(valid, 0),
        "dev/newstest2013-ref.en.sgm": sgm(valid, 1),
        "dev/newstest2014-deen-src.de.sgm": sgm(test, 0),
        "dev/newstest2014-deen-ref.en.sgm": sgm(test, 1),
    }
    files = {f"{name}.tgz": tgz(members) for name, members in archives.items()}
    files |= {f"{name}.zip": zipped(members) for name, members in archives.items()}
    for name, pairs in (("newstest2013", valid), ("newstest2014", test)):
        files |= {f"{name}.{language}": lines(pairs, side) for side, language in enumerate(("de", "en"))}
    return files


def describe(corpus: DictConfig, files: dict[str, bytes], *roots: str) -> DictConfig:
    """The corpus with the checksums of `files`, to be fetched from `<root>/<file>`, root by root."""
    assert set(files) == set(corpus.files)
    for name, content in files.items():
        spec = corpus.files[name]
        spec.bytes, spec.sha256 = len(content), hashlib.sha256(content).hexdigest()
        spec.urls = [f"{root}/{name}" for root in roots]
    return corpus


def toy_wmt(files: dict[str, bytes], *roots: str) -> DictConfig:
    """configs/corpus/wmt14_deen.yaml as it stands, but for checksums, URLs, counts and the vocabulary's size."""
    corpus = describe(composed("wmt14_deen"), files, *roots)
    for split, pairs in PAIRS.items():
        corpus.splits[split].pairs = pairs
    corpus.vocabulary.size = 200
    return corpus


def running_text(articles: int, seed: int) -> str:
    """Articles as WikiText has them: headings, empty lines (of one space), rare words as <unk>, more than ASCII."""
    rng = random.Random(seed)
    words = ["".join(rng.choices("aeioustrnlé–中", k=rng.randint(1, 7))) for _ in range(300)] + ["<unk>", ",", "."] * 20
    lines = []
    for number in range(articles):
        lines += [" ", f" = {words[number]} = ", " "]
        lines += [f" {' '.join(rng.choices(words, k=rng.randint(5, 80)))} " for _ in range(5)]
    return "\n".join(lines) + "\n"


TEXTS = {"train": running_text(160, 1), "valid": running_text(3, 1), "test": running_text(4, 2)}


def wikitext_files() -> dict[str, bytes]:
    """Every file that configs/corpus/wikitext2.yaml names, small, with the published inner paths and another member."""
    members = {f"wikitext-2/wiki.{split}.tokens": text.encode() for split, text in TEXTS.items()}
    plain = {f"{split}.txt": text.encode() for split, text in TEXTS.items()}
    return {"wikitext-2-v1.zip": zipped({"wikitext-2/": b"", "wikitext-2/README": b"not needed\n"} | members), **plain}


def toy_wikitext(files: dict[str, bytes], *roots: str) -> DictConfig:
    """configs/corpus/wikitext2.yaml as it stands, but for checksums, URLs and counts."""
    corpus = describe(composed("wikitext2"), files, *roots)
    for split, text in TEXTS.items():
        corpus.splits[split].lines = text.count("\n")
        corpus.splits[split].words = text.count("\n") + len(text.split())
    corpus.splits.train.types = len({*TEXTS["train"].split()} - {"<unk>"})
    return corpus


class Server(ThreadingHTTPServer):
    """Serves `files` with Range on 127.0.0.1; sends half of each of `breaks` the first time it is asked for it."""

    daemon_threads = True

    def __init__(self, files: dict[str, bytes], breaks: tuple[str, ...] = (), ranges: bool = True) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files, self.breaks, self.ranges = dict(files), set(breaks), ranges
        self.asked: list[tuple[str, str | None]] = []  # (file, Range header)
        self.pause = 0.0  # seconds between 4 kB, for tests that need a download to last
        self.root = f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        name, wanted = self.path.strip("/"), self.headers.get("Range")
        self.server.asked.append((name, wanted))
        if (content := self.server.files.get(name)) is None:
            self.send_error(404)
            return
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and self.server.ranges else 0
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        half = name in self.server.breaks
        self.server.breaks.discard(name)
        content = content[start : len(content) // 2 if half else None]
        for block in range(0, len(content), 4096):
            self.wfile.write(content[block : block + 4096])
            time.sleep(self.server.pause)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(files: dict[str, bytes], **options):
    server = Server(files, **options)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def tree(folder: Path) -> dict[str, str]:
    """sha256 of every file under `folder`, by relative path."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def save(corpus: DictConfig, path: Path) -> Path:
    OmegaConf.save(corpus, path)
    return path
