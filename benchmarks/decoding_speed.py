"""Speed of translation: fairseq's SequenceGenerator, as fairseq-generate runs it, and this project's beam search.

    python benchmarks/decoding_speed.py [--rows transformer mem20 ...] [--beams 1 4] [--precisions fp16 float32] [...]

3,003 sentences of random words with the lengths of newstest (log-normal, mean 28 subwords), in fairseq's batches of
12,000 source tokens, which lie on the GPU before the clock starts. Both peers translate the same batches in turn, ours
several of them at once. All that they do counts, the capture of CUDA graphs too. Hypotheses are compared word by word.

Weights are random. What the decoder's layers add is small, so that the next word depends on the last one and not on the
sentence alone; logits have a deviation of 3, lest hypotheses be near ties that any rounding turns round. Such a model
ends its sentences anywhere, so the end is forbidden before the longest length allowed, that of the batch's longest
source: every hypothesis has about the length of its source, and none is finished early. In float32, hypotheses should
be identical; in half precision they differ by rounding, as trained models are surer of their words.

Prints a Markdown table, medians with their range; --json keeps all numbers, after each row. --cpu-toy does the same
with tiny models on the CPU, to see that everything works.
"""

import argparse
import sys
import time
from argparse import Namespace
from pathlib import Path
from statistics import mean, median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from memtrans_fairseq.compat import no_cudnn_attention, quiet  # noqa: E402
from memtrans_fairseq.presets import TRANSLATION  # noqa: E402
from memtrans_fairseq.search import BeamSearch  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402
from fairseq import models, utils  # noqa: E402
from fairseq.data import Dictionary, LanguagePairDataset  # noqa: E402
from fairseq.dataclass.configs import GenerationConfig  # noqa: E402
from fairseq.sequence_generator import SequenceGenerator  # noqa: E402
from omegaconf import OmegaConf  # noqa: E402

from memtrans.errors import UserError, main_guard  # noqa: E402
from memtrans.files import write_json  # noqa: E402

ROWS = {
    "transformer": ("transformer", {}),
    "mem20": ("mem_transformer", {"memory_tokens": 20}),
    "bottleneck20": ("mem_bottleneck_transformer", {"memory_tokens": 20}),
}
PRECISIONS = {"fp16": torch.float16, "float32": torch.float32}
ENTRIES = 32_000  # of the dictionary
MEAN, SPREAD, LEAST, MOST = 28, 0.6, 3, 250  # subwords of a sentence: of the log-normal, and its ends
SHARP = 3.0  # standard deviation of a logit
NEVER = -1e4  # bias of the end of the sentence: less than any logit, also in half precision
SMALL = 0.3  # weights of the last maps in the decoder's sub-layers are multiplied by it
LONGEST = {"max_len_a": 1.0, "max_len_b": 0}  # as long as the source
Pairs = list[tuple[dict[str, Any], list[list[dict[str, Any]]]]]  # batches, and the hypotheses of their sentences
TOY = {"encoder_layers": 2, "decoder_layers": 2, "encoder_embed_dim": 64, "decoder_embed_dim": 64}
TOY |= {"encoder_ffn_embed_dim": 128, "decoder_ffn_embed_dim": 128}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("--size", choices=["base", "small"], default="base")
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    parser.add_argument("--beams", nargs="+", type=int, default=[1, 4])
    parser.add_argument("--sentences", type=int, default=3003)
    parser.add_argument("--batch-tokens", type=int, default=12_000, help="source tokens, padding included")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the numbers go")
    parser.add_argument("--cpu-toy", action="store_true", help="tiny models and fewer words and sentences, on the CPU")
    options = parser.parse_args()
    if options.cpu_toy:
        options.precisions, options.sentences, options.batch_tokens = ["float32"], 120, 1000
    return options


@main_guard
def main() -> None:
    options = parse()
    no_cudnn_attention()
    words = Dictionary()
    for number in range(1000 if options.cpu_toy else ENTRIES - len(words)):
        words.add_symbol(str(number))
    batches = make_batches(words, options)
    results = []
    for row in options.rows:
        for precision in options.precisions:
            model = build(row, words, options).to(PRECISIONS[precision])
            for beam in options.beams:
                try:
                    with quiet():
                        found = compare(model, words, batches, beam, options)
                except RuntimeError as error:  # too little memory, for one
                    found = {"error": str(error).splitlines()[0]}
                results.append({"row": row, "precision": precision, "beam": beam, **found})
                print(results[-1], file=sys.stderr, flush=True)
                if options.json:
                    about = {"sentences": options.sentences, "size": options.size}
                    write_json(options.json, about | {"results": results})
    print("| row | precision | beam | fairseq, sentences/s | ours | ratio | identical |")
    print("|---|---|---:|---:|---:|---:|---:|")
    for result in results:
        print(markdown(result, options.sentences))
    if failed := sum("error" in result for result in results):
        raise UserError(f"{failed} of {len(results)} measurements failed")


def make_batches(words: Dictionary, options: argparse.Namespace) -> list[dict[str, Any]]:
    """fairseq's batches of random sentences, on the device."""
    rng = np.random.default_rng(0)
    drawn = rng.lognormal(np.log(MEAN) - SPREAD**2 / 2, SPREAD, options.sentences)
    lengths = np.clip(drawn, LEAST, MOST).astype(np.int64)
    rows = [rng.integers(words.nspecial, len(words), length) for length in lengths]
    source = [torch.from_numpy(np.append(row[:-1], words.eos())) for row in rows]
    data = LanguagePairDataset(source, lengths, words, shuffle=False)
    numbers = data.batch_by_size(data.ordered_indices(), max_tokens=options.batch_tokens)
    batches = [data.collater([data[i] for i in batch]) for batch in numbers]
    return batches if options.cpu_toy else [utils.move_to_cuda(batch) for batch in batches]


def build(row: str, words: Dictionary, options: argparse.Namespace) -> Any:
    """A model of a row with random weights, in eval mode, on the device."""
    torch.manual_seed(1)
    name, settings = ROWS[row]
    size = TRANSLATION[options.size] | (TOY if options.cpu_toy else {})
    config = OmegaConf.create({"model": {"_name": name, "share_all_embeddings": True, **size, **settings}})
    task = Namespace(source_dictionary=words, target_dictionary=words)
    model = models.build_model(config.model, task).eval()
    for name, parameter in model.decoder.layers.named_parameters():
        if "out_proj" in name or "fc2" in name:
            parameter.data *= SMALL
    projection = torch.nn.Linear(model.decoder.output_embed_dim, len(words))
    torch.nn.init.normal_(projection.weight, std=SHARP * projection.in_features**-0.5)
    torch.nn.init.zeros_(projection.bias)
    model.decoder.output_projection = projection
    projection.bias.data[words.eos()] = NEVER
    return model if options.cpu_toy else model.cuda()


def compare(
    model: Any, words: Dictionary, batches: list[dict[str, Any]], beam: int, options: argparse.Namespace
) -> dict[str, Any]:
    """Seconds of both peers, in turn, and how far their best hypotheses agree."""

    def fairseq(some: list[dict[str, Any]]) -> Pairs:
        generator = SequenceGenerator([model], words, beam_size=beam, **LONGEST)
        return [(batch, generator.generate([model], batch)) for batch in some]

    def ours(some: list[dict[str, Any]]) -> Pairs:
        return list(BeamSearch(model, words, GenerationConfig(beam=beam, **LONGEST)).generate_all(some))

    peers = {"fairseq": fairseq, "ours": ours}
    seconds: dict[str, list[float]] = {peer: [] for peer in peers}
    said: dict[str, list[list[int]]] = {}
    for translate in peers.values():  # warms up
        translate(batches[len(batches) // 2 :][:1])
    for repeat in range(options.repeats):
        for peer, translate in peers.items():
            start = now(options)
            found = translate(batches)
            seconds[peer].append(now(options) - start)
            print(f"  {peer}, beam {beam}, repeat {repeat + 1}: {seconds[peer][-1]:.2f} s", file=sys.stderr, flush=True)
            said[peer] = best(found)
    same = [one == other for one, other in zip(said["fairseq"], said["ours"], strict=True)]
    return {"seconds": seconds, "identical": mean(same), "mean_length": mean(map(len, said["ours"]))}


def best(found: Pairs) -> list[list[int]]:
    """The words of the best hypotheses, in the order of the sentences."""
    words = {}
    for batch, hypotheses in found:
        for number, (first, *_) in zip(batch["id"].tolist(), hypotheses, strict=True):
            words[number] = first["tokens"].tolist()
    return [words[number] for number in sorted(words)]


def now(options: argparse.Namespace) -> float:
    """The time when the device has done its work."""
    if not options.cpu_toy:
        torch.cuda.synchronize()
    return time.perf_counter()


def markdown(result: dict[str, Any], sentences: int) -> str:
    if "error" in result:
        return f"| {result['row']} | {result['precision']} | {result['beam']} | failed: {result['error']} |"
    theirs, ours = ([sentences / s for s in result["seconds"][peer]] for peer in ("fairseq", "ours"))
    rates = [f"{median(rate):,.0f} ({min(rate):,.0f} to {max(rate):,.0f})" for rate in (theirs, ours)]
    cells = [result["row"], result["precision"], str(result["beam"]), *rates]
    cells += [f"{median(ours) / median(theirs):.2f}", f"{100 * result['identical']:.2f} %"]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
