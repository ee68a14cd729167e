"""How a record was trained and decoded: its config without the seed and without what makes it the variant it is.

Only records of one recipe make a difference to the baseline that says something about the variant.
"""

from collections.abc import Mapping
from typing import Any

Recipe = dict[str, Any]  # value by dotted key
MEMORY_KEYS = ("memory_tokens", "memory_init", "memory_positions", "decoder_reads", "share_memory_layers")
VARIANT_KEYS = {"seed", "variant", "arch", *(f"model.{key}" for key in MEMORY_KEYS)}
SHOWN = 3  # so many differing settings are named


def recipe_of(config: Mapping[str, Any]) -> Recipe:
    """The settings of a record's config that must agree with the baseline's."""
    return {key: value for key, value in _flat(config).items() if key not in VARIANT_KEYS}


def differing(one: Recipe, other: Recipe) -> list[str]:
    """The keys whose values differ or that only one of the two has."""
    unset = object()
    return [key for key in sorted({*one, *other}) if one.get(key, unset) != other.get(key, unset)]


def difference_text(one: Recipe, other: Recipe) -> str:
    """The first differing settings in words, for example "train.max_update 100 against 3000"."""
    keys = differing(one, other)
    texts = [f"{key} {_text(one, key)} against {_text(other, key)}" for key in keys[:SHOWN]]
    more = [f"{len(keys) - SHOWN} more"] if len(keys) > SHOWN else []
    return ", ".join([*texts, *more])


def _text(recipe: Recipe, key: str) -> str:
    return str(recipe[key]) if key in recipe else "unset"


def _flat(config: Mapping[str, Any], prefix: str = "") -> Recipe:
    flat: Recipe = {}
    for key, value in config.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat
