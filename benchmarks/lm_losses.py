"""Loss curves: the authors' code and ours, from the same weights, on the same batches, update by update.

    python benchmarks/lm_losses.py FOLDER_WITH_THE_REFERENCE_pytorch [--rows transformer xl ...] [--updates N] [...]

Ours is trained by fairseq's trainer with the harness' recipe, theirs as their train.py does it: Adam 2.5e-4, clipping
at 0.25, a cosine to 0; no dropout, float32. Two differences of theirs are taken out: their relative shift for negative
distances (lm_reference.use_signed_distances), and the memory that segments are run once more from. Prints a table of
mean losses in nats per token.
"""

import argparse
import logging
import shlex
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import lm_reference  # noqa: E402
import lm_setting  # noqa: E402
import torch  # noqa: E402
from lm_setting import ROWS, Row, Setting  # noqa: E402

from memtrans.corpora import Prepared  # noqa: E402
from memtrans.errors import main_guard  # noqa: E402

LR = 2.5e-4
COMPARED = [name for name, row in ROWS.items() if row.reference is not None]


@main_guard
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reference", metavar="FOLDER", help="pytorch/ of LM-RMT")
    parser.add_argument(
        "--rows", nargs="+", choices=COMPARED, default=COMPARED, metavar="ROW", help=", ".join(COMPARED)
    )
    parser.add_argument("--updates", type=int, default=100)
    parser.add_argument("--extra", type=shlex.split, default=[], help="further flags of fairseq's, for ours")
    parser.add_argument("--cpu-toy", action="store_true", help="tiny models on the CPU")
    options = parser.parse_args()
    setting = lm_setting.TOY if options.cpu_toy else lm_setting.WIKITEXT103
    model_class = lm_reference.load(options.reference)
    extra = [*options.extra, *(["--cpu"] if options.cpu_toy else [])]
    if options.cpu_toy:
        torch.set_num_threads(1)  # so little work is not worth dividing
    logging.disable(logging.INFO)
    from memtrans_fairseq.compat import quiet

    with tempfile.TemporaryDirectory() as folder, quiet():
        corpus = lm_setting.write_corpus(Path(folder), setting, options.updates)
        for row in map(ROWS.__getitem__, options.rows):
            print(f"\n{setting.fill(row.label)}\n\n| update | ours | theirs | difference |\n|---:|---:|---:|---:|")
            farthest = 0.0
            for update, (ours, theirs) in enumerate(
                curves(row, setting, corpus, options.updates, extra, model_class), 1
            ):
                farthest = max(farthest, abs(ours - theirs))
                if update in (1, 2, 5, 10, 20, 50) or update % 100 == 0 or update == options.updates:
                    print(f"| {update} | {ours:.6f} | {theirs:.6f} | {ours - theirs:+.1e} |", flush=True)
            print(f"\nLargest difference of {options.updates} updates: {farthest:.1e}")


def curves(
    row: Row, setting: Setting, corpus: Prepared, updates: int, extra: list[str], model_class: Any
) -> Iterator[tuple[float, float]]:
    """Our loss and theirs before each update."""
    still = ["model.dropout=0", "model.attention_dropout=0", "model.activation_dropout=0", f"train.lr={LR}"]
    # torch's Adam on both sides: fairseq's own scales epsilon by the second bias correction
    still += ["train.warmup_updates=0", "train.precision=fp32", "train.optimizer=fused_adam"]
    config, task, model, criterion = lm_setting.set_up(
        # a loss scale that never overflows, so that under --amp no update is skipped
        [*lm_setting.our_arguments(row, setting, corpus, updates, *still), "--fp16-init-scale", "1", *extra]
    )
    from fairseq.data.iterators import GroupedIterator
    from fairseq.logging import metrics
    from fairseq.trainer import Trainer

    values = lm_setting.reference_options(row, setting)
    depth = values.pop("depth")
    reference = lm_reference.build(model_class, **values)
    copy_weights(model, reference)
    if values.get("num_mem_tokens"):
        lm_reference.use_signed_distances(reference)
    device = "cpu" if config.common.cpu else "cuda"
    training = lm_reference.Training(reference.to(device), updates, depth=depth, lr=LR, rewind=True)
    trainer = Trainer(config, task, model, criterion)
    batches = trainer.get_train_iterator(epoch=1)
    trainer.begin_epoch(1)
    for samples in GroupedIterator(batches.next_epoch_itr(), 1):
        if trainer.get_num_updates() == updates:
            return
        batch = (samples[0]["net_input"]["src_tokens"], samples[0]["target"])
        theirs = training.update(*(lm_reference.as_theirs(part).to(device) for part in batch))
        with metrics.aggregate(new_root=True) as measured:
            trainer.train_step(samples)
        bits: Any = measured["loss"]
        yield bits.avg * 0.6931471805599453, theirs.item()


@torch.no_grad()
def copy_weights(model: Any, reference: Any) -> None:
    """Give the reference the weights of our model."""
    ours, theirs = dict(model.decoder.named_parameters()), dict(reference.named_parameters())
    embeddings = [name for name in ours if name.startswith("vocabulary.weights.")]  # a matrix for each cluster
    ours["vocabulary.weights"] = torch.cat([ours.pop(name) for name in embeddings])
    words = {"vocabulary.weights": "word_emb.emb_layers.0.weight", "vocabulary.bias": "crit.out_layers.0.bias"}
    words |= {"vocabulary.cluster_weight": "crit.cluster_weight", "vocabulary.cluster_bias": "crit.cluster_bias"}
    names = words | {"positions.content_bias": "r_w_bias", "positions.position_bias": "r_r_bias"}
    if "mem_tokens" in theirs:
        names["memory.weight"] = "mem_tokens"
    inside = {"query_key_value": "attention.query_key_value.weight", "relative_position": "attention.position.weight"}
    inside |= {"output": "attention.output.weight", "ffn_in": "fc1", "ffn_out": "fc2"}
    inside |= {"attention_norm": "attention_layer_norm", "ffn_norm": "final_layer_norm"}
    for layer in range(len(reference.layers)):
        start = f"layers.{layer}.block."
        stacked = [ours.pop(f"{start}attention.{part}.weight") for part in ("query", "key_value")]
        ours[f"{start}attention.query_key_value.weight"] = torch.cat(stacked)
        for semantic, name in lm_reference.layer_names(layer).items():
            part, _, kind = semantic.removeprefix(f"layers.{layer}.").partition(".")
            names[start + inside[part] + (f".{kind}" if kind else "")] = name
    assert names.keys() == ours.keys(), names.keys() ^ ours.keys()
    assert {*names.values()} == theirs.keys(), {*names.values()} ^ theirs.keys()
    for name, other in names.items():
        # their clusters stand in the head in reverse order
        weight = ours[name].flip(0) if "cluster" in name else ours[name]
        theirs[other].copy_(weight.reshape(theirs[other].shape))


if __name__ == "__main__":
    main()
