"""How an encoder's cost grows with the length of its input: `python benchmarks/encoder_length.py`; prints Markdown.

Forward and backward pass of base encoders (6 layers, 512 channels) for sentences of n subwords, in bfloat16 on a GPU or
float32 on a CPU: milliseconds, median of repeats, and on a GPU the peak of memory. A full encoder's attention grows
with n squared; MemBottleneck's, in which everything goes through memory, with n. One sentence does not keep a GPU busy:
--sentences gives it more of that length, --ragged makes all but one of them a tenth shorter, so that there is padding;
--compile joins small kernels. The last line: longest by shortest.
"""

import argparse
import sys
import time
from argparse import Namespace
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import memtrans_fairseq  # noqa: E402, F401  (must come before fairseq)
from memtrans_fairseq.compat import no_cudnn_attention  # noqa: E402

import torch  # noqa: E402
from fairseq import models  # noqa: E402
from fairseq.data import Dictionary  # noqa: E402
from omegaconf import OmegaConf  # noqa: E402

MODELS = {"transformer": 0, "mem_transformer": 20, "mem_bottleneck_transformer": 20}  # and their memory tokens
ROOM = 1 << 15  # positions that a model has
PAD = 1  # fairseq's number of the padding symbol
WARM_UP = 3  # passes that are not counted: the first compiles


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024, 2048, 4096, 8192, 16384])
    parser.add_argument("--sentences", type=int, default=1, help="of a batch")
    parser.add_argument("--ragged", action="store_true", help="sentences are not of the same length")
    parser.add_argument("--compile", action="store_true", help="by torch.compile")
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS), metavar="MODEL")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    if options.ragged and options.sentences == 1:
        parser.error("--ragged: sentences of different lengths are at least two; set --sentences")
    no_cudnn_attention()
    gpu = torch.cuda.is_available()
    print(f"{torch.cuda.get_device_name() if gpu else 'CPU'}, torch {torch.__version__}\n")
    print("| subwords |" + "".join(f" {name}, ms |" + f" {name}, MB |" * gpu for name in options.models))
    print("|---:|" + "---:|" * len(options.models) * (1 + gpu))
    found = []
    for length in options.lengths:
        found.append([number for name in options.models for number in cost(name, length, options)])
        print(f"| {length:,} | {' | '.join(f'{number:,.1f}' for number in found[-1])} |", flush=True)
    ratios = [f"{last / first:.1f} x" for first, last in zip(found[0], found[-1], strict=True)]
    print(f"| {options.lengths[-1] / options.lengths[0]:.0f} x | {' | '.join(ratios)} |")


def cost(name: str, length: int, options: Namespace) -> list[float]:
    """Milliseconds, and on a GPU megabytes."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    encoder = build(name, options.layers).encoder.to(device)
    if device == "cuda":
        encoder = encoder.to(torch.bfloat16)
    torch.compiler.reset()
    encode = torch.compile(encoder) if options.compile else encoder
    lengths = torch.full((options.sentences,), length)
    words = torch.randint(4, 1000, (options.sentences, length), device=device)
    if options.ragged:
        words[1:, : length // 10] = PAD
        lengths[1:] -= length // 10
    seconds = []
    for number in range(WARM_UP + options.repeats):
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            torch.cuda.synchronize()
        start = time.perf_counter()
        encode(words, lengths)["encoder_out"][0].float().square().mean().backward()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds += [time.perf_counter() - start] * (number >= WARM_UP)
        encoder.zero_grad()
    return [1e3 * median(seconds), *([torch.cuda.max_memory_allocated() / 2**20] if device == "cuda" else [])]


def build(name: str, layers: int) -> Any:
    dictionary = Dictionary()
    for word in range(1000):
        dictionary.add_symbol(str(word))
    task = Namespace(source_dictionary=dictionary, target_dictionary=dictionary, target_lang="en")
    options = {"encoder_embed_dim": 512, "encoder_ffn_embed_dim": 2048, "encoder_attention_heads": 8}
    options |= {"encoder_layers": layers, "decoder_layers": 1, "share_all_embeddings": True, "dropout": 0.0}
    memory = {"memory_tokens": MODELS[name]} if MODELS[name] else {}
    config = OmegaConf.create({"model": {"_name": name, "max_source_positions": ROOM, **options, **memory}})
    return models.build_model(config.model, task).train()


if __name__ == "__main__":
    main()
