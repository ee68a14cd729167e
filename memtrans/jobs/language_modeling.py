"""Language modelling: one stream of tokens read in segments, perplexity per corpus word."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memtrans.errors import UserError, did_you_mean
from memtrans.files import write_json
from memtrans.progress import say
from memtrans.records import Score

if TYPE_CHECKING:
    from memtrans.runs import Run

IN_HALF = False  # the last digits of a perplexity matter
TASK = "streaming_language_modeling"
# the ways to measure perplexity (see memtrans.perplexity) and the lengths that each needs
WAYS = {
    "segment": ("target",),
    "xl_eval": ("target", "memory", "clamp"),
    "sliding": ("window", "stride"),
}


def fill(train: Mapping[str, Any]) -> float:
    return 1.0  # a stream has no padding


def corpus_identity(manifest: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": manifest["corpus"], "fingerprint": manifest["fingerprint"], "task": manifest["task"]}


def check(values: Mapping[str, Any]) -> None:
    train, protocol = values["train"], values["protocol"]
    for key in ("packed", "compile", "cuda_graphs"):
        if train.get(key):
            raise UserError(f"train.{key}=true is for translation; the text of a language model has no padding")
    for key in ("tokens_per_sample", "batch_size"):
        _whole(f"train.{key}", train[key])
    launcher = values.get("launcher") or {}
    if (parts := launcher.get("accumulate") or 1) != 1:
        raise UserError(f"launcher.accumulate={parts}: rows of a language model carry state and are not taken in parts")
    for key in ("batch_size", "batch_size_valid"):
        if (gpus := launcher.get("gpus") or 1) > train[key]:
            raise UserError(f"launcher.gpus={gpus}: each needs a row, and train.{key} is {train[key]}; take fewer GPUs")
    ways = protocol["perplexity"]
    if not isinstance(ways, Sequence) or isinstance(ways, str) or not ways:
        raise UserError(f"protocol.perplexity={ways}: expected a list such as [{','.join(WAYS)}]")
    _whole("protocol.rows", protocol["rows"])
    for way in ways:
        if way not in WAYS:
            raise UserError(f"protocol.perplexity: no such way {way!r}; {did_you_mean(str(way), WAYS)}")
        for length in WAYS[way]:
            _whole(f"protocol.{way}.{length}", protocol[way][length])
    if len(set(ways)) < len(ways):
        raise UserError(f"protocol.perplexity=[{','.join(ways)}]: each way once")
    if all(_lacks(values["model"], way) for way in ways):
        raise UserError(f"protocol.perplexity=[{','.join(ways)}]: {_lacks(values['model'], ways[0])}")
    if protocol["sliding"]["stride"] > protocol["sliding"]["window"]:
        raise UserError("protocol.sliding: the stride is longer than the window, so tokens would be left out")


def _whole(key: str, value: Any) -> None:
    if not (isinstance(value, int) and not isinstance(value, bool) and value > 0):
        raise UserError(f"{key}={value}: expected a whole number of at least 1")


def task_arguments(run: "Run") -> list[str]:
    return [str(run.data / "bin"), "--task", TASK]


def training_tokens(
    train: Mapping[str, Any], manifest: Mapping[str, Any], generated: bool = False
) -> tuple[float, str]:
    """By the updates or the epochs of a run, whichever end first."""
    split, limits = manifest["splits"]["train"], []
    if train["max_update"]:
        each = train["batch_size"] * train["tokens_per_sample"] * train["update_freq"]
        limits.append((train["max_update"] * each, "tokens are updates x rows x segment"))
    if train["max_epoch"] and (tokens := split.get("tokens") or split.get("words")):
        limits.append((train["max_epoch"] * tokens, "tokens are those of the corpus x epochs"))
    if not limits:
        raise UserError("how long training takes is not known before the corpus is prepared: run scripts.prepare first")
    return min(limits)


def weights(model: Mapping[str, Any], vocabulary: int) -> int:
    """Of a transformer with these fairseq options; biases left out, and of an adaptive softmax all but its head.

    Layers count again for every earlier segment that gradients of carried memory go back through.
    """
    width = model["decoder_embed_dim"]
    head = min([vocabulary, *map(int, str(model.get("adaptive_softmax_cutoff") or vocabulary).split(",")[:1])])
    layers = model["decoder_layers"] * (4 * width**2 + 2 * width * model["decoder_ffn_embed_dim"])
    return head * width + layers * (1 + model.get("memory_bptt", 0))


def small_batches(train: Mapping[str, Any], tokens: int) -> dict[str, Any]:
    return {"batch_size": max(1, min(train["batch_size"], tokens // train["tokens_per_sample"]))}


def made_up(train: Mapping[str, Any], vocabulary: int) -> tuple[list[str], dict[str, int]]:
    """A stream of random words, long enough for every update and for the check that follows the last."""
    tokens = (train["max_update"] + 1) * train["batch_size"] * train["tokens_per_sample"]
    return ["--task", TASK], {"vocabulary": vocabulary, "tokens": tokens}


def epochs(meters: Mapping[str, Any], train_split: Mapping[str, Any]) -> float:
    return meters["wpb"]["sum"] / train_split["tokens"]


def score_split(
    run: "Run", model: Any, task: Any, split: str, protocol: Mapping[str, Any], kept: Path | None
) -> list[Score]:
    """Perplexity in every way that the protocol names and the model has. Finished sums lie in `kept`.

    Raises UserError if a way did not score just the tokens of the corpus.
    """
    from memtrans_fairseq.streaming import read_stream

    from memtrans import perplexity

    counts, dictionary, scores = run.manifest()["splits"][split], task.target_dictionary, []
    for way in protocol["perplexity"]:
        if reason := _lacks(run.identity["model"], way):
            say(f"{split} is not scored by {way}: {reason}")
            continue
        path = kept / f"{split}.{way}.json" if kept else None
        if path and path.exists():
            counted = perplexity.Counted(**json.loads(path.read_text()))
        else:
            say(f"scoring {split}, {way}")
            stream = read_stream(str(run.data / "bin" / split))
            counted = perplexity.measure(model, stream, way, protocol, dictionary.eos(), dictionary.pad())
            if counted.tokens != counts["tokens"]:
                raise UserError(
                    f"{split}, {way}: {counted.tokens:,} tokens were scored, but the corpus has {counts['tokens']:,}; "
                    f"was {run.data} changed? Delete it, and prepare it again"
                )
            if path:
                write_json(path, {"nll": counted.nll, "tokens": counted.tokens})
        scores.append(
            Score(
                metric="perplexity",
                value=counted.perplexity(counts["words"]),
                split=split,
                items=counts["words"],
                unit="word",
                context=perplexity.context(way, protocol),
            )
        )
    return scores


def _lacks(model: Mapping[str, Any], way: str) -> str | None:
    """Why a model with these options cannot be scored in a way; None if it can."""
    if way == "xl_eval" and not model.get("mem_len"):
        return "it lengthens a model's cache, and this one has none (model.mem_len); take segment or sliding"
    return None


def hypotheses(run: "Run") -> None:
    """A language model leaves no output but its scores."""
