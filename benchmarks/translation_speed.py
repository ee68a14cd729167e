"""Training speed of translation models: rows of the table through the harness' own command, and their peers.

    python benchmarks/translation_speed.py [--rows transformer mem20 ...] [--max-tokens 32768] [--repeats 3] [...]

Peers in the same job, with as many layers: `stock`, fairseq's transformer_wmt_en_de with fairseq's usual options (fp16,
its `adam`), and `limit`, torch's own nn.Transformer of the same shape: compiled, bf16 autocast, fused Adam, one fixed
batch without any padding, no data loading, no dropout of attention. Text is random, with the lengths of WMT-14
(log-normal, mean 28 subwords) and the frequencies of words over 32,000 entries.

Rates are unpadded target tokens per second. Those of fairseq's trainer are what it logs every 20 updates, the harmonic
mean without the first quarter of the updates; the limit's batch has as many tokens as the others have room for. Each
measurement is a process of its own, and all are repeated in turn. Prints a Markdown table, medians with their range;
--json keeps all numbers, after each measurement. --at-once runs several of a row on one GPU, which should be shared by
NVIDIA's MPS; --gpus shares each batch among several. --cpu-toy does the same with tiny models, to see that everything
works.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lm_speed import read_result  # noqa: E402

from memtrans.configuration import compose  # noqa: E402
from memtrans.corpora import Prepared  # noqa: E402
from memtrans.corpora.binarise import write_lines  # noqa: E402
from memtrans.errors import UserError, main_guard  # noqa: E402
from memtrans.files import write_json  # noqa: E402
from memtrans.ranks import read_ranks, start  # noqa: E402
from memtrans.runlog import last_error  # noqa: E402
from memtrans.runs import plan_run, train_arguments  # noqa: E402
from memtrans.training import join, leave, rank_flags  # noqa: E402

ROWS = {
    "transformer": ["variant=transformer"],
    **{f"mem{m}": ["variant=mem_transformer", f"model.memory_tokens={m}"] for m in (5, 10, 20)},
    "shared20": ["variant=mem_ctrl_shared", "model.memory_tokens=20"],
    "ctrl20": ["variant=mem_ctrl", "model.memory_tokens=20"],
    "bottleneck20": ["variant=mem_bottleneck", "model.memory_tokens=20"],
}
STOCK = "--arch transformer_wmt_en_de --share-all-embeddings --optimizer adam --adam-betas (0.9,0.98) --lr 5e-4 "
STOCK += "--lr-scheduler inverse_sqrt --warmup-updates 4000 --dropout 0.1 --criterion label_smoothed_cross_entropy "
STOCK += "--label-smoothing 0.1 --fp16 --task translation --source-lang de --target-lang en --seed 1 --log-format json"
ENTRIES, SPECIAL = 32_000, 4  # of the dictionary; of which fairseq's own symbols
MEAN, SPREAD, LEAST, MOST = 28, 0.6, 3, 250  # subwords of a sentence: of the log-normal, and its ends
ROOM = 1.1  # so much more text than the updates take, whose epoch should not end among them
LIMIT_LENGTH = 32  # tokens of every sentence in the limit's batch
RESULT = "translation_speed: result "


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [*ROWS, "stock", "limit", "limit20"]
    parser.add_argument("--rows", nargs="+", choices=names, default=names, metavar="ROW", help=", ".join(names))
    parser.add_argument("--size", choices=["base", "small"], default="base")
    parser.add_argument("--max-tokens", type=int, default=32768, help="of a batch on each GPU, padding included")
    parser.add_argument("--gpus", type=int, default=1, metavar="N", help="for each row but the limits")
    parser.add_argument("--updates", type=int, default=240)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--at-once", type=int, default=1, metavar="N", help="so many of a row side by side on one GPU: their sum"
    )
    parser.add_argument("--overrides", type=shlex.split, default=[], help="of the harness, for its rows")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the numbers go")
    parser.add_argument("--cpu-toy", action="store_true", help="tiny models on the CPU")
    return parser.parse_args()


@main_guard
def main() -> None:
    options = parse()
    with tempfile.TemporaryDirectory() as name:
        pairs = int(ROOM * options.updates * options.max_tokens * options.gpus / MEAN)
        corpus = write_corpus(Path(name), pairs)
        about = {"max_tokens": options.max_tokens, "gpus": options.gpus, "size": options.size}
        found: dict[str, list[dict[str, Any]]] = {row: [] for row in options.rows}
        for _ in range(options.repeats):
            for row in options.rows:
                found[row].append(measure_all(row, options, corpus))
                print(f"{row}: {found[row][-1]}", file=sys.stderr, flush=True)
                if options.json:
                    write_json(options.json, about | {"results": found})
    print("| row | parameters | target tok/s, median (range) | to stock |\n|---|---:|---:|---:|")
    for row, results in found.items():
        print(markdown(row, results, found.get("stock", [])))
    if failed := sum("error" in result for results in found.values() for result in results):
        raise UserError(f"{failed} measurements failed")


def markdown(row: str, results: list[dict[str, Any]], stock: list[dict[str, Any]]) -> str:
    rates = [result["training"] for result in results if "training" in result]
    if not rates:
        return f"| {row} | failed: {results[0]['error']} |"
    peers = [result["training"] for result in stock if "training" in result]
    ratio = f"{median(rates) / median(peers):.2f}" if peers else "–"
    spread = f"{median(rates):,.0f} ({min(rates):,.0f} to {max(rates):,.0f})"
    return f"| {row} | {results[0]['parameters']:,} | {spread} | {ratio} |"


def write_corpus(folder: Path, pairs: int) -> Prepared:
    """Random pairs of sentences, binarised as the harness does it."""
    import numpy as np

    rng = np.random.default_rng(0)
    frequency = np.cumsum(1 / (np.arange(ENTRIES - SPECIAL) + 2.7))
    (folder / "bin").mkdir()
    counts: dict[str, dict[str, int]] = {}
    for split, number in (("train", max(pairs, 100)), ("valid", 50), ("test", 50)):
        source = rng.lognormal(np.log(MEAN) - SPREAD**2 / 2, SPREAD, number)
        target = source * rng.normal(1, 0.15, number)
        for language, lengths in (("de", source), ("en", target)):
            sizes = np.clip(lengths, LEAST, MOST).astype(np.int64)
            ids = SPECIAL + np.searchsorted(frequency, rng.random(sizes.sum()) * frequency[-1])
            ids[np.cumsum(sizes) - 1] = 2  # fairseq's </s>
            write_lines(folder / f"bin/{split}.de-en.{language}", [(ids, sizes)], ENTRIES)
        counts[split] = {"pairs": number}
    for language in ("de", "en"):
        words = (f"{word} 1\n" for word in range(ENTRIES - SPECIAL))
        (folder / f"bin/dict.{language}.txt").write_text("".join(words))
    manifest = {"corpus": "random", "fingerprint": "0" * 64, "task": "translation", "splits": counts}
    manifest |= {"source_lang": "de", "target_lang": "en", "vocabulary": ENTRIES}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return Prepared(folder, manifest)


def measure_all(row: str, options: argparse.Namespace, corpus: Prepared) -> dict[str, Any]:
    """`options.at_once` measurements side by side: the sum of their rates, or {"error": why there is none}."""
    task = {"row": row, "toy": options.cpu_toy, "max_tokens": options.max_tokens, "layers": layers(options)}
    if not row.startswith("limit"):
        task["arguments"] = arguments(row, options, corpus)
        task["processes"] = 1 if row == "stock" else options.gpus  # stock fairseq starts its own
    with ThreadPoolExecutor(options.at_once) as pool:
        results = list(pool.map(lambda number: measure(task, options, corpus.path, number), range(options.at_once)))
    for result in results:
        if "error" in result:
            return result
    return results[0] | {"training": sum(result["training"] for result in results)}


def layers(options: argparse.Namespace) -> int:
    """Of the encoder, and as many of the decoder."""
    model = compose([f"size={options.size}", *options.overrides]).model
    encoder, decoder = model.encoder_layers, model.decoder_layers
    if encoder != decoder:
        raise UserError(f"{encoder} layers of the encoder, {decoder} of the decoder: peers have as many of both")
    return 1 if options.cpu_toy else encoder


def measure(task: dict[str, Any], options: argparse.Namespace, folder: Path, number: int) -> dict[str, Any]:
    """Run one measurement in a process of its own. Returns its numbers, or {"error": why there are none}."""
    log = folder / f"log{number}.txt"
    top, before = str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH")
    environment = os.environ | {"PYTHONUNBUFFERED": "1", "PYTHONPATH": os.pathsep.join(filter(None, [top, before]))}
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(options.gpus)))).split(",")
    environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpus[: options.gpus])
    threads = len(os.sched_getaffinity(0)) // (options.gpus * options.at_once)
    environment.setdefault("OMP_NUM_THREADS", str(max(1, threads)))  # as the harness does
    with log.open("w") as output:
        command = [sys.executable, __file__, "--child", json.dumps(task)]
        status = subprocess.run(command, stdout=output, stderr=output, env=environment, cwd=folder).returncode
    return {"error": last_error(log)} if status else read_result(log, RESULT)


def arguments(row: str, options: argparse.Namespace, corpus: Prepared) -> list[str]:
    """What `memtrans-fairseq train` gets for a row: from the harness, or fairseq's usual options."""
    length = ["--max-update", str(options.updates), "--log-interval", "20"]
    length += ["--no-save", "--disable-validation", "--save-dir", ".", *(["--cpu"] if options.cpu_toy else [])]
    length += ["--num-workers", "0" if options.cpu_toy else "1"]
    if row == "stock":
        stock = [word for word in STOCK.split() if not (options.cpu_toy and word == "--fp16")]
        shape = ["--encoder-layers", str(layers(options)), "--decoder-layers", str(layers(options))]
        return [str(corpus.path / "bin"), *stock, *shape, *length, "--max-tokens", str(options.max_tokens)]
    wanted = [f"size={options.size}", "protocol=full", *ROWS[row], *options.overrides]
    if options.cpu_toy:
        wanted += ["model.encoder_layers=1", "model.decoder_layers=1", "train.precision=fp32"]
    of_all = options.max_tokens * options.gpus
    config = compose([*wanted, f"train.max_tokens={of_all}", f"train.max_update={options.updates}"])
    return [*train_arguments(plan_run(config, corpus)), *length]


def child(task: dict[str, Any]) -> None:
    if task["row"].startswith("limit"):
        print(RESULT + json.dumps(limit(task, int(task["row"].removeprefix("limit") or 0))))
        return
    ranks = read_ranks(os.environ)
    if task["processes"] > 1 and not ranks.several:
        sys.exit(start(task["processes"], [sys.executable, *sys.argv]))
    import memtrans_fairseq.cli
    from memtrans_fairseq.preemption import stoppable
    from memtrans_fairseq.sharing import shared_batches

    join(ranks, True)
    several = rank_flags(ranks) if task["processes"] > 1 else []
    with stoppable(lambda: False, lambda: None), shared_batches() if ranks.several else nullcontext():
        memtrans_fairseq.cli.main(["train", *task["arguments"], *several])
    leave(ranks)
    if ranks.rank == 0:
        print(RESULT + "{}")


def limit(task: dict[str, Any], memory: int) -> dict[str, float]:
    """torch's transformer on one batch of equal sentences, with `memory` learned vectors before each source."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    device, toy = ("cpu", True) if task["toy"] else ("cuda", False)
    width, steps = 512, 2 if toy else 60
    rows = max(1, task["max_tokens"] // LIMIT_LENGTH)
    shape: Any = {"dim_feedforward": 2048, "dropout": 0.1, "batch_first": True, "bias": True}
    model = nn.Transformer(width, 8, task["layers"], task["layers"], **shape).to(device)
    words = nn.Embedding(ENTRIES, width).to(device)
    slots = nn.Parameter(torch.randn(memory, width, device=device))
    for attention in (module for module in model.modules() if isinstance(module, nn.MultiheadAttention)):
        attention.dropout = 0.0
    parameters = [*model.parameters(), *words.parameters(), *([slots] if memory else [])]
    adam = torch.optim.Adam(parameters, 1e-4, fused=True)
    source, target, wanted = (torch.randint(ENTRIES, (rows, LIMIT_LENGTH), device=device) for _ in range(3))
    mask = nn.Transformer.generate_square_subsequent_mask(LIMIT_LENGTH, device=device)

    def loss() -> torch.Tensor:
        x = torch.cat([slots.expand(rows, -1, -1), words(source)], dim=1) if memory else words(source)
        y = model(x, words(target), tgt_mask=mask, tgt_is_causal=True)
        return F.cross_entropy(F.linear(y, words.weight).flatten(0, 1), wanted.flatten(), label_smoothing=0.1)

    compiled = loss if toy else torch.compile(loss)

    def step() -> None:
        with torch.autocast(device, torch.bfloat16):
            value = compiled()
        value.backward()
        adam.step()
        adam.zero_grad()

    for _ in range(1 if toy else 10):
        step()
    start = _now(device)
    for _ in range(steps):
        step()
    rate = steps * wanted.numel() / (_now(device) - start)
    return {"training": rate, "parameters": sum(parameter.numel() for parameter in parameters)}


def _now(device: str) -> float:
    """The time when the device has done its work."""
    import torch

    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    child(json.loads(sys.argv[2])) if sys.argv[1:2] == ["--child"] else main()
