"""Golden values for our Transformer-XL and its memory: losses and gradients that the reference gives for known weights.

    python benchmarks/golden_transformer_xl.py FOLDER_WITH_THE_REFERENCE_pytorch tests/golden/transformer_xl.json

The reference is lm_reference.py's; the weights are those of tests/golden/weights.py; all in float64, in eval mode.
The file explains itself in its first entries.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

import lm_reference
import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "tests" / "golden"))
from weights import FORMULA, weight  # noqa: E402

V, B, T, SEGMENTS, LAYERS, C, HEADS, FFN, MEMORY = 60, 3, 8, 4, 3, 12, 3, 20, 4
CUTOFFS = [20, 40]
DEFAULTS: dict[str, Any] = {
    "pre_norm": False,
    "cache": 0,
    "clamp": None,
    "same_length": False,
    "memory": 0,
    "placement": None,
}
DEFAULTS |= {"cutoffs": CUTOFFS, "div_value": 1, "tied_projections": None, "signed": None}
GRADIENTS = {
    "post/uncached": ("content_bias", "position_bias", "layers.1.query_key_value", "cluster_weight", "word_embedding"),
    "post/cached_8": ("content_bias", "position_bias", "layers.1.query_key_value", "layers.0.relative_position"),
}

NOTES = {
    "layout": "a case's losses are [segment][row][token], in nats; gradients are those of the sum of all its losses. "
    "Row b of `tokens` is a stream: segment s reads tokens 8s to 8s+7 and predicts tokens 8s+1 to 8s+8",
    "settings": "cache: cached states of each layer (with no gradient), from an empty cache on; clamp: largest "
    "distance that is told apart; cutoffs: of the adaptive softmax, [] for a full one; div_value: by what embedding "
    "widths shrink from cluster to cluster; tied_projections: by cluster, whether the softmax shares its projection "
    "with the embedding; query, key and value are rows 0-11, 12-23, 24-35 of query_key_value",
    "model": "word embeddings are multiplied by sqrt(12), memory tokens are not; positions are [all sin(d f_i); all "
    "cos(d f_i)] of distance d with f_i = 10000**(-2i/12), i = 0..5; content_bias (u) and position_bias (v) are shared "
    "by the layers; the feed-forward is ReLU; norms have eps 1e-5; with pre_norm there is no norm after the last layer",
    "clusters": "the softmax's head is [20 words; cluster rows 0, 1], and the reference takes the LAST cluster row for "
    "the first cluster of rarer words: words 20-39 have cluster row 1, words 40-59 cluster row 0",
    "same_length": "a token sees the distances 0 to cache - 1, itself being distance 0, so `cache` tokens",
    "front": "the input is [cache; memory; segment]; memory rows see all memory rows, neither cache nor segment; "
    "memory starts from memory_tokens in every segment; the last `cache` of [cache; memory; segment] are cached",
    "recurrent": "the input is [cache; memory; segment; the same memory]; the first memory rows see each other, the "
    "last ones all memory rows and the segment, not the cache; the segment sees cache, first memory and its own past. "
    "The last memory rows' outputs are the next segment's memory; the gradient flows through them. The last `cache` of "
    "[cache; memory; segment; memory] are cached, memory rows among them",
    "signed": "a memory row that sees a later memory row has a negative distance. The reference's relative shift has "
    "none: false keeps its accidental values (row i gives a column j that is n places too late 0 for n = 1, else the "
    "score of row i+1's query with distance k + 1 - n); true: the positions of negative distances are "
    "used (a change made here); null: no such pair occurs",
}


def main() -> None:
    folder, target = sys.argv[1:]
    model_class = lm_reference.load(folder)
    parameters = number(shapes())
    with lm_reference.double_precision():
        cases = {name: run(model_class, name, settings, parameters) for name, settings in all_cases().items()}
    content = {
        "made_by": "benchmarks/golden_transformer_xl.py, with the reference's commit e2895080868a, in float64",
        "formula": FORMULA,
        "notes": NOTES,
        "sizes": {"V": V, "B": B, "T": T, "layers": LAYERS, "C": C, "heads": HEADS, "ffn": FFN},
        "tokens": tokens().tolist(),
        "parameters": parameters,
        "cases": cases,
    }
    text = json.dumps(content, indent=1)
    text = re.sub(r"\[[^\[\]{}]*\]", lambda found: re.sub(r"\s+", " ", found[0]), text)  # a row of numbers is a line
    Path(target).write_text(text + "\n")
    print(f"{len(cases)} cases, {len(text):,} bytes: {target}")


def all_cases() -> dict[str, dict[str, Any]]:
    cases: dict[str, dict[str, Any]] = {}
    for norm in ("post", "pre"):
        changes: dict[str, dict[str, Any]] = {
            "uncached": {},
            **{f"cached_{n}": {"cache": n} for n in (5, 8, 20)},
            "clamp_6": {"clamp": 6},
            "clamp_6_cached_8": {"clamp": 6, "cache": 8},
            **{f"same_length_{n}": {"cache": n, "same_length": True} for n in (5, 8, 20)},
            **{f"front_{m}": {"memory": m, "placement": "front"} for m in (1, MEMORY)},
            **{f"front_{m}_cached_8": {"memory": m, "placement": "front", "cache": 8} for m in (1, MEMORY)},
            **{f"recurrent_{m}": {"memory": m, "placement": "recurrent"} for m in (1, MEMORY)},
            **{f"recurrent_{m}_cached_8": {"memory": m, "placement": "recurrent", "cache": 8} for m in (1, MEMORY)},
        }
        for name, changed in changes.items():
            settings = DEFAULTS | changed | {"pre_norm": norm == "pre"}
            if settings["memory"] > 1:
                cases[f"{norm}/{name}_signed"] = settings | {"signed": True}
                settings = settings | {"signed": False}
            cases[f"{norm}/{name}"] = settings
    post = DEFAULTS
    cases["post/full_softmax"] = post | {"cutoffs": []}
    for tied in ([False, True, True], [True, True, True]):
        name = "divided_" + ("tied" if all(tied) else "head_untied")
        cases[f"post/{name}"] = post | {"div_value": 2, "tied_projections": tied}
    cases["post/divided_tied_cached_8"] = cases["post/divided_tied"] | {"cache": 8}
    return cases


def tokens() -> Tensor:
    """B x (4 T + 1), from every cluster."""
    t = torch.arange(SEGMENTS * T + 1)
    return (17 * torch.arange(B)[:, None] + 7 * t + t**3) % V


def shapes() -> dict[str, tuple[int, ...]]:
    """Every weight that some case has, under its own name; `divided`: for div_value 2, one a cluster."""
    layer: dict[str, tuple[int, ...]] = {
        "query": (C, C),
        "key": (C, C),
        "value": (C, C),
        "relative_position": (C, C),
        "output": (C, C),
    }
    layer |= {"attention_norm.weight": (C,), "attention_norm.bias": (C,)}
    layer |= {"ffn_in.weight": (FFN, C), "ffn_in.bias": (FFN,), "ffn_out.weight": (C, FFN), "ffn_out.bias": (C,)}
    layer |= {"ffn_norm.weight": (C,), "ffn_norm.bias": (C,)}
    every: dict[str, tuple[int, ...]] = {"word_embedding": (V, C)}
    every |= {f"layers.{i}.{name}": shape for i in range(LAYERS) for name, shape in layer.items()}
    every |= {"content_bias": (HEADS, C // HEADS), "position_bias": (HEADS, C // HEADS), "softmax_bias": (V,)}
    every |= {"cluster_weight": (len(CUTOFFS), C), "cluster_bias": (len(CUTOFFS),), "memory_tokens": (MEMORY, C)}
    for i, (first, last) in enumerate(bounds(CUTOFFS)):
        every[f"divided.embedding.{i}"] = (last - first, C // 2**i)
        every[f"divided.projection.{i}"] = (C, C // 2**i)
    return every | {"divided.softmax_projection.0": (C, C)}


def number(shapes: dict[str, tuple[int, ...]]) -> dict[str, dict[str, Any]]:
    return {name: {"offset": i, "shape": list(shape)} for i, (name, shape) in enumerate(shapes.items())}


def bounds(cutoffs: list[int]) -> list[tuple[int, int]]:
    return list(zip([0, *cutoffs], [*cutoffs, V], strict=True))


def reference_weights(settings: dict[str, Any], parameters: dict[str, dict[str, Any]]) -> dict[str, Tensor]:
    """What the reference calls each of its parameters, and the value it gets."""
    of = {name: weight(name, parameter) for name, parameter in parameters.items()}
    for i in range(LAYERS):
        of[f"layers.{i}.query_key_value"] = torch.cat([of[f"layers.{i}.{name}"] for name in ("query", "key", "value")])
    names = {ours: theirs for i in range(LAYERS) for ours, theirs in lm_reference.layer_names(i).items()}
    weights = {theirs: of[ours] for ours, theirs in names.items()}
    weights |= {"r_w_bias": of["content_bias"], "r_r_bias": of["position_bias"]}
    if settings["cutoffs"]:
        weights |= {"crit.cluster_weight": of["cluster_weight"], "crit.cluster_bias": of["cluster_bias"]}
    if settings["memory"]:
        weights["mem_tokens"] = of["memory_tokens"][: settings["memory"], None]
    if settings["div_value"] == 1:
        return weights | {
            "word_emb.emb_layers.0.weight": of["word_embedding"],
            "crit.out_layers.0.bias": of["softmax_bias"],
        }
    for i, (first, last) in enumerate(bounds(CUTOFFS)):
        weights[f"word_emb.emb_layers.{i}.weight"] = of[f"divided.embedding.{i}"]
        weights[f"word_emb.emb_projs_{i}"] = of[f"divided.projection.{i}"]
        weights[f"crit.out_layers.{i}.bias"] = of["softmax_bias"][first:last]
        if not settings["tied_projections"][i]:
            weights[f"crit.out_projs_{i}"] = of[f"divided.softmax_projection.{i}"]
    return weights


def run(model_class: Any, case: str, settings: dict[str, Any], parameters: dict[str, Any]) -> dict:
    """One case: the losses of all segments, and gradients of their sum."""
    model = lm_reference.build(
        model_class, n_token=V, n_layer=LAYERS, n_head=HEADS, d_model=C, d_head=C // HEADS, d_inner=FFN, tgt_len=T,
        cutoffs=list(settings["cutoffs"]), pre_lnorm=settings["pre_norm"], mem_len=settings["cache"],
        clamp_len=settings["clamp"] or -1, same_length=settings["same_length"], num_mem_tokens=settings["memory"],
        mem_at_end=settings["placement"] == "recurrent", div_val=settings["div_value"],
        tie_projs=settings["tied_projections"] or [False] * 3,
    ).eval()  # fmt: skip
    weights = reference_weights(settings, parameters)
    own = dict(model.named_parameters())
    assert own.keys() == weights.keys(), own.keys() ^ weights.keys()
    with torch.no_grad():
        for name, parameter in own.items():
            assert parameter.dtype == torch.float64
            assert parameter.shape == weights[name].shape, name
            parameter.copy_(weights[name])
    if settings["signed"]:
        lm_reference.use_signed_distances(model)
    losses: list[Tensor] = []
    cache: Any = ()
    memory: Any = None
    for i in range(SEGMENTS):
        stream = tokens()[:, i * T :].T.contiguous()
        loss, cache, memory = lm_reference.segment(model, stream[:T], stream[1 : T + 1], cache, memory)
        losses.append(loss.T)
    torch.stack(losses).sum().backward()
    theirs = {ours: name for i in range(LAYERS) for ours, name in lm_reference.layer_names(i).items()}
    theirs |= {"content_bias": "r_w_bias", "position_bias": "r_r_bias", "memory_tokens": "mem_tokens"}
    theirs |= {"cluster_weight": "crit.cluster_weight", "word_embedding": "word_emb.emb_layers.0.weight"}
    wanted = ("memory_tokens",) if settings["memory"] else GRADIENTS.get(case, ())
    gradients = {name: rounded(own[theirs[name]].grad.reshape(len(own[theirs[name]]), -1)) for name in wanted}
    return {"settings": settings, "losses": rounded(torch.stack(losses)), "gradients": gradients}


def rounded(values: Tensor) -> Any:
    return (values.detach() * 1e10).round().div(1e10).tolist()


if __name__ == "__main__":
    main()
