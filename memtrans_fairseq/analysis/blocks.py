"""Where attention over [memory; sequence] goes: the mass of its blocks, and its entropy.

Rows of a map are targets, columns are sources. Each row's weights sum to 1, so over rows of one kind the masses of its
blocks do too (`carried` is a part of `read`):

    mass.process        memory <- memory
    mass.write          memory <- sequence: what the sequence holds goes into memory
    mass.write_cached   memory <- cached sequence (language models)
    mass.read           sequence <- memory; in a cross-attention, target <- memory
    mass.carried        sequence <- memory that an earlier segment left (language models)
    mass.normal         sequence <- sequence; in a cross-attention, target <- source sequence
    mass.cached         sequence <- cached sequence (language models)

A mass is the mean over its rows of the sum of the weights on its columns. Uniform attention, over what each row can
see, gives the mass that its number of columns alone would bring: 10 of 25 columns get 0.4 of it. Entropy is the mean
over rows of -sum w ln w, in nats.

Shape legend: H heads, R rows, C columns.
"""

from collections.abc import Mapping

import numpy as np

from .attention import Map, Side

Values = dict[str, np.ndarray]  # H values each; nan where a map has no such rows or columns


def uniform(attention: Map) -> np.ndarray:
    """Each row's weight spread evenly over what it sees: 1 x R x C."""
    visible = attention.visible.astype(float)
    return (visible / visible.sum(axis=-1, keepdims=True))[np.newaxis]


def rows_and_columns(down: Side, across: Side) -> Mapping[str, tuple[np.ndarray, np.ndarray]]:
    """Which rows and columns each block has: boolean, R and C."""
    sequence, memory = ~down.memory, down.memory
    text, earlier = ~across.memory, across.earlier
    return {
        "process": (memory, across.memory),
        "write": (memory, text & ~earlier),
        "write_cached": (memory, text & earlier),
        "read": (sequence, across.memory),
        "carried": (sequence, across.memory & earlier),
        "normal": (sequence, text & ~earlier),
        "cached": (sequence, text & earlier),
    }


def masses(weights: np.ndarray, attention: Map) -> Values:
    """The mass of each block of weights, H x R x C; those that the map cannot have are left out."""
    found = {}
    for name, (rows, columns) in rows_and_columns(attention.down, attention.across).items():
        if attention.visible[np.ix_(rows, columns)].any():
            found[f"mass.{name}"] = weights[:, rows][..., columns].sum(axis=-1).mean(axis=-1)
    return found


def entropies(weights: np.ndarray, attention: Map) -> Values:
    """The mean entropy of memory's rows and of the sequence's, of weights H x R x C, in nats."""
    by_row = -(weights * np.log(np.where(weights > 0, weights, 1))).sum(axis=-1)  # H x R
    kinds = {"entropy.memory": attention.down.memory, "entropy.sequence": ~attention.down.memory}
    return {name: by_row[:, rows].mean(axis=-1) for name, rows in kinds.items() if rows.any()}
