"""Translation: pairs of sentences, fairseq's own task, BLEU and chrF of beam search."""

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memtrans.corpora import read_lines
from memtrans.errors import UserError
from memtrans.files import write_bytes, write_text
from memtrans.progress import say
from memtrans.records import Hypotheses, Score

if TYPE_CHECKING:
    from memtrans.runs import Run

IN_HALF = True
PACKED_CRITERION = "label_smoothed_cross_entropy"
SUBWORDS = 30  # target subwords of a training pair: news and parliament, a vocabulary of some ten thousand
DEMO_SUBWORDS = 13  # the same of the generated corpus
SPECIAL = 4  # symbols that fairseq adds to a dictionary by itself


def fill(train: Mapping[str, Any]) -> float:
    """Padded: 0.77 on Multi30k, 0.82 on lengths like WMT-14's. Packed: full, but for the shorter side."""
    return 0.97 if train.get("packed") else 0.8


def corpus_identity(manifest: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": manifest["corpus"],
        "fingerprint": manifest["fingerprint"],
        "languages": [manifest["source_lang"], manifest["target_lang"]],
    }


def check(values: Mapping[str, Any]) -> None:
    train = values["train"]
    if train.get("compile") and not train.get("packed"):
        raise UserError("train.compile=true is for packed batches: set train.packed=true, or train.compile=false")
    if train.get("cuda_graphs") and not train.get("compile"):
        raise UserError("train.cuda_graphs=true is for what is compiled: set it to false, or train.compile=true")
    if train.get("packed") and train["criterion"] != PACKED_CRITERION:
        raise UserError(f"train.criterion={train['criterion']}: packed batches are for {PACKED_CRITERION}")
    if train.get("packed") and (dropout := values["model"].get("attention_dropout")):
        raise UserError(f"model.attention_dropout={dropout}: packed batches have none; set train.packed=false, or 0")
    for key in ("sentences", "beam", "batch_tokens"):
        value = values["protocol"][key]
        if not (type(value) is int and value > 0) and (key, value) != ("sentences", None):
            raise UserError(f"protocol.{key}={value}: expected a whole number of at least 1")
    if type(draw := values["protocol"]["draw_seed"]) is not int:
        raise UserError(f"protocol.draw_seed={draw}: expected a whole number")
    for key, least in {"lenpen": -math.inf, "max_len_a": 0, "max_len_b": 0}.items():
        value = values["protocol"][key]
        if type(value) not in (int, float) or not math.isfinite(value) or value < least:
            raise UserError(f"protocol.{key}={value}: expected a number{' of at least 0' if least == 0 else ''}")
    slope, most = values["protocol"]["max_len_a"], values["protocol"]["max_len_b"]
    if 2 * slope + most < 1:  # the shortest source is a subword and its end
        raise UserError(
            f"protocol.max_len_a={slope} protocol.max_len_b={most}: translations would have no subword; raise one"
        )


def task_arguments(run: "Run") -> list[str]:
    source, target = run.identity["corpus"]["languages"]
    name = "packed_translation" if run.identity["train"].get("packed") else "translation"
    task = ["--task", name, "--source-lang", source, "--target-lang", target]
    return [str(run.data / "bin"), *task, "--skip-invalid-size-inputs-valid-test"]


def training_tokens(
    train: Mapping[str, Any], manifest: Mapping[str, Any], generated: bool = False
) -> tuple[float, str]:
    """By the updates or the epochs of a run, whichever end first."""
    split, limits = manifest["splits"]["train"], []
    if train["max_update"]:
        tokens = train["max_update"] * train["max_tokens"] * train["update_freq"] * fill(train)
        how = f"target tokens are updates x batch x {fill(train)} (assumed: the part that is not padding)"
        limits.append((tokens, how))
    if train["max_epoch"] and "target_tokens" in split:
        limits.append((train["max_epoch"] * split["target_tokens"], "target tokens are those of the corpus x epochs"))
    elif train["max_epoch"] and "pairs" in split:
        each = DEMO_SUBWORDS if generated else SUBWORDS
        how = f"target tokens are pairs x {each} subwords (assumed, as the corpus is not prepared yet) x epochs"
        limits.append((train["max_epoch"] * split["pairs"] * each, how))
    if not limits:
        raise UserError("how long training takes is not known before the corpus is prepared: run scripts.prepare first")
    return min(limits)


def weights(model: Mapping[str, Any], vocabulary: int) -> int:
    """Of a transformer with these fairseq options; memory and biases left out."""
    encoder, decoder = model["encoder_embed_dim"], model["decoder_embed_dim"]
    return (
        vocabulary * decoder
        + model["encoder_layers"] * (4 * encoder**2 + 2 * encoder * model["encoder_ffn_embed_dim"])
        + model["decoder_layers"] * (8 * decoder**2 + 2 * decoder * model["decoder_ffn_embed_dim"])
    )


def small_batches(train: Mapping[str, Any], tokens: int) -> dict[str, Any]:
    return {"max_tokens": min(train["max_tokens"], tokens)}


def made_up(train: Mapping[str, Any], vocabulary: int) -> tuple[list[str], None]:
    """fairseq's own made-up pairs: full batches of sentences of 30 random words."""
    task = "packed_dummy_mt" if train.get("packed") else "dummy_mt"
    return ["--task", task, "--dict-size", str(vocabulary - SPECIAL)], None


def epochs(meters: Mapping[str, Any], train_split: Mapping[str, Any]) -> float:
    return meters["bsz"]["sum"] / train_split["pairs"]


def score_split(
    run: "Run", model: Any, task: Any, split: str, protocol: Mapping[str, Any], kept: Path | None
) -> list[Score]:
    """BLEU and chrF. Finished translations lie in `kept`, and are not made again."""
    from memtrans import evaluation

    path = kept / f"{split}.hypotheses.txt" if kept else None
    if path and path.exists():
        hypotheses = list(read_lines(path))
    else:
        say(f"translating {split}")
        hypotheses = evaluation.translate(model, task, split, protocol)
        if path:
            write_text(path, "".join(f"{line}\n" for line in hypotheses))
    sentences = protocol["sentences"] if split == protocol["split"] else None
    chosen = evaluation.draw(len(hypotheses), sentences, protocol["draw_seed"])
    references = list(read_lines(run.data / "text" / f"{split}.{run.identity['corpus']['languages'][1]}"))
    return evaluation.score(hypotheses, references, split, chosen)


def hypotheses(run: "Run") -> Hypotheses:
    """Copy the scored translations beside the records."""
    split = run.identity["protocol"]["split"]
    content = (run.folder / f"{split}.hypotheses.txt").read_bytes()
    name = f"hypotheses/{run.hash}.{split}.txt"
    write_bytes(run.results / name, content)
    return Hypotheses(file=name, sha256=hashlib.sha256(content).hexdigest())
