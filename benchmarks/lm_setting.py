"""What the benchmarks of language models run: rows of the table, a corpus of random words, and both codes' models."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memtrans.configuration import compose
from memtrans.corpora import Prepared
from memtrans.runs import plan_run, train_arguments

EVALUATION_ROWS = 10  # as in the protocol `lm`
LINE = 57  # tokens; the mean of WikiText-103's lines


@dataclass(frozen=True)
class Row:
    """A model: its label, the harness' overrides, and its options in the reference; None if it has no such model.

    T stands for the tokens of a segment, M for the number of memory tokens, CUTOFFS for those of the vocabulary.
    """

    label: str
    overrides: list[str]
    reference: dict[str, Any] | None = None


def _memory(label: str, cache: str, placement: str, bptt: int = 0) -> Row:
    ours = ["variant=mem_transformer_lm", "model.memory_tokens=M", f"model.mem_len={cache}", "model.memory_every=0"]
    ours += [f"model.memory_placement={placement}", f"model.memory_bptt={bptt}"]
    theirs = {"mem_len": cache, "num_mem_tokens": "M", "mem_at_end": placement == "recurrent", "depth": bptt}
    return Row(label, ours, theirs)


# fairseq's own throughout: model, task, and loss of an adaptive softmax. All words in full width and tied, as in ours.
# Its loss refuses the usual DistributedDataParallel, which one GPU has no use for.
STOCK = ["+model.adaptive_input=true", "+model.adaptive_input_cutoff=CUTOFFS", "+model.adaptive_input_factor=1"]
STOCK += ["+model.adaptive_softmax_factor=1", "+model.tie_adaptive_weights=true", "+model.tie_adaptive_proj=true"]
STOCK += ["model.share_decoder_input_output_embed=false", "train.criterion=adaptive_loss"]
STOCK += ["+train.ddp_backend=legacy_ddp", "+train.sample_break_mode=none", "+train.task=language_modeling"]

ROWS = {
    "transformer": Row("Transformer", ["variant=transformer_xl", "model.mem_len=0"], {"mem_len": 0}),
    "memory": _memory("MemTransformer M", "0", "front"),
    "xl": Row("Transformer-XL, cache T", ["variant=transformer_xl", "model.mem_len=T"], {"mem_len": "T"}),
    "xl_memory": _memory("Transformer-XL, cache T + MemTransformer M", "T", "front"),
    "rmt0": _memory("RMT M, BPTT 0", "0", "recurrent"),
    "rmt1": _memory("RMT M, BPTT 1", "0", "recurrent", 1),
    "bottleneck": Row("MemBottleneck M", ["variant=mem_bottleneck_lm", "model.memory_tokens=M"]),
    "stock": Row("fairseq transformer_lm", ["variant=transformer_lm", *STOCK]),
}


@dataclass(frozen=True)
class Setting:
    """Sizes. `rows` and `length` are those of a batch; `memory` the number of memory tokens."""

    size: str  # the harness' name of the model's shape and recipe
    rows: int
    length: int
    memory: int
    vocabulary: int
    cutoffs: list[int]

    def fill(self, text: str) -> str:
        """Put numbers for T, M and CUTOFFS."""
        numbers = {"T": self.length, "M": self.memory, "CUTOFFS": f"'{','.join(map(str, self.cutoffs))}'"}
        return re.sub(r"\b(T|M|CUTOFFS)\b", lambda name: str(numbers[name[0]]), text)


WIKITEXT103 = Setting("lm_base", 60, 150, 10, 267735, [20000, 40000, 200000])
TOY = Setting("lm_demo", 4, 16, 3, 500, [100, 200, 400])


def our_arguments(row: Row, setting: Setting, corpus: Prepared, updates: int, *overrides: str) -> list[str]:
    """What `memtrans-fairseq train` gets from the harness for this row, but for its length and what it would write."""
    wanted = [f"size={setting.size}", "protocol=lm", *map(setting.fill, row.overrides), f"train.max_update={updates}"]
    wanted += [f"train.batch_size={setting.rows}", f"train.tokens_per_sample={setting.length}"]
    wanted += [setting.fill("model.adaptive_softmax_cutoff=CUTOFFS"), *overrides]
    arguments = train_arguments(plan_run(compose(wanted), corpus))
    return [*arguments, "--no-save", "--disable-validation", "--save-dir", ".", "--log-interval", "5"]


def reference_options(row: Row, setting: Setting) -> dict[str, Any]:
    """What the reference's model is built with for this row; and `depth`, of its training."""
    shape = compose([f"size={setting.size}"]).model
    width, heads = shape.decoder_embed_dim, shape.decoder_attention_heads
    options = {"n_token": setting.vocabulary, "cutoffs": setting.cutoffs, "tgt_len": setting.length, "depth": 0}
    options |= {"n_layer": shape.decoder_layers, "n_head": heads, "d_model": width, "d_head": width // heads}
    assert row.reference is not None
    own = {key: int(setting.fill(value)) if isinstance(value, str) else value for key, value in row.reference.items()}
    return options | {"d_inner": shape.decoder_ffn_embed_dim} | own


def write_corpus(folder: Path, setting: Setting, updates: int) -> Prepared:
    """Random words with the frequencies of a text (Zipf), binarised as the harness does it."""
    import memtrans_fairseq  # noqa: F401  (must come before fairseq)

    import numpy
    import torch
    from fairseq.data import Dictionary, indexed_dataset

    dictionary = Dictionary()
    for word in range(setting.vocabulary - 2):  # </s> and <unk> count as words too
        dictionary.add_symbol(str(word))
    (folder / "bin").mkdir()
    dictionary.save(str(folder / "bin/dict.txt"))
    draw = numpy.random.default_rng(0)
    frequency = 1 / (numpy.arange(setting.vocabulary - 1) + 2.7)
    frequency /= frequency.sum()
    counts: dict[str, dict[str, int]] = {}
    for split, rows in (("train", setting.rows), ("valid", EVALUATION_ROWS), ("test", EVALUATION_ROWS)):
        size = rows * setting.length * (updates + 1)
        words = torch.from_numpy(dictionary.eos() + 1 + draw.choice(len(frequency), size, p=frequency))
        words[LINE - 1 :: LINE] = dictionary.eos()
        builder = indexed_dataset.make_builder(f"{folder}/bin/{split}.bin", impl="mmap", vocab_size=len(dictionary))
        for line in words.split(LINE):
            builder.add_item(line)
        builder.finalize(f"{folder}/bin/{split}.idx")
        counts[split] = {"lines": -(-size // LINE), "tokens": size, "words": size, "unknown": 0}
    manifest: dict[str, Any] = {
        "corpus": "random",
        "fingerprint": "0" * 64,
        "task": "language_modeling",
        "splits": counts,
    }
    manifest |= {"vocabulary": setting.vocabulary, "unit": "word"}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return Prepared(folder, manifest)


def set_up(arguments: list[str]) -> Any:
    """fairseq's config, task, model and criterion for the arguments of `train`, as its own `train` makes them."""
    import memtrans_fairseq  # noqa: F401  (must come before fairseq)

    from fairseq import options, tasks, utils
    from fairseq.dataclass.utils import convert_namespace_to_omegaconf

    config = convert_namespace_to_omegaconf(options.parse_args_and_arch(options.get_training_parser(), arguments))
    utils.set_torch_seed(config.common.seed)
    task = tasks.setup_task(config.task)
    return config, task, task.build_model(config.model), task.build_criterion(config.criterion)
