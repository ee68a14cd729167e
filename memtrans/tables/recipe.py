"""How a record was trained and decoded: its config without the seed and without what makes it the variant it is.

Only records of one recipe make a difference to the baseline that says something about the variant.
"""

from collections.abc import Mapping, Sequence
from typing import Any

Recipe = dict[str, Any]  # value by dotted key
MEMORY_KEYS = (
    *("memory_tokens", "memory_init", "memory_frozen", "memory_positions", "decoder_reads", "share_memory_layers"),
    # of language models: where memory stands, how far it reaches back, and the cache of Transformer-XL
    *("memory_placement", "memory_every", "memory_bptt", "attention_window", "mem_len"),
)
VARIANT_KEYS = {"seed", "variant", "arch", *(f"model.{key}" for key in MEMORY_KEYS)}
# what fairseq's own transformer_lm has to be told and this project's models not, or the other way round: it says how a
# model is built, and must agree only where both have it
BUILD_KEYS = {
    f"model.{key}"
    for key in ("decoder_input_dim", "decoder_output_dim", "share_decoder_input_output_embed", "compile_layers")
}
SHOWN = 3  # so many differing settings are named


def recipe_of(config: Mapping[str, Any]) -> Recipe:
    """The settings of a record's config that must agree with the baseline's."""
    return {key: value for key, value in flat(config).items() if key not in VARIANT_KEYS}


def differing(one: Recipe, other: Recipe) -> list[str]:
    """The keys whose values differ or that only one of the two has, but for those that only its model can have."""
    unset = object()
    found = [key for key in sorted({*one, *other}) if one.get(key, unset) != other.get(key, unset)]
    return [key for key in found if key not in BUILD_KEYS or (key in one and key in other)]


def difference_text(one: Recipe, other: Recipe, keys: Sequence[str] | None = None) -> str:
    """The first of the differing settings (or of `keys`) in words: "train.max_update 100 against 3000"."""
    keys = differing(one, other) if keys is None else keys
    texts = [f"{key} {_text(one, key)} against {_text(other, key)}" for key in keys[:SHOWN]]
    more = [f"{len(keys) - SHOWN} more"] if len(keys) > SHOWN else []
    return ", ".join([*texts, *more])


def _text(recipe: Recipe, key: str) -> str:
    return str(recipe[key]) if key in recipe else "unset"


def flat(config: Mapping[str, Any], prefix: str = "") -> Recipe:
    """The values of a nested mapping by dotted key."""
    found: Recipe = {}
    for key, value in config.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found
