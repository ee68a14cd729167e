"""FlexAttention over packed rows: only blocks of rows that share a sentence are computed.

A sentence of WMT has some 28 words; a kernel that takes sentence by sentence spends a block of 128 rows on each. Here a
block of queries has the rows of several sentences, and looks at the few blocks of keys where the same sentences lie.

Shape legend: N rows of all sentences, H heads, D channels of each. Only compiled is FlexAttention a kernel.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from .spans import Spans

BLOCK = 128  # rows
# How a kernel cuts a pair of blocks, forward and back, and its pipeline. torch's own choice for Hopper, nearly whole
# blocks, suits masks that let more of a block through (measured on an H200 alone: benchmarks/README.md).
TILES = {
    **{"fwd_BLOCK_M": 128, "fwd_BLOCK_N": 64, "fwd_num_stages": 3, "fwd_num_warps": 4},
    **{"bwd_BLOCK_M1": 32, "bwd_BLOCK_N1": 64, "bwd_BLOCK_M2": 64, "bwd_BLOCK_N2": 32},
    **{"bwd_num_stages": 3, "bwd_num_warps": 4},
}
TILED = 64  # channels of a head up to which these are taken: wider ones might not fit a GPU's shared memory


def block_attention(q: Tensor, k: Tensor, v: Tensor, of_queries: Spans, of_keys: Spans, causal: bool = False) -> Tensor:
    """q N x H x D; k, v N' x H x D. Returns N x H x D."""
    q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
    mask = block_mask(of_queries, of_keys, causal)
    options: Any = None
    if q.size(-2) >= BLOCK:  # fewer are for another kernel, flex_decoding, which would read beyond q with these tiles
        options = {"BLOCKS_ARE_CONTIGUOUS": True, **(TILES if q.size(-1) <= TILED else {})}
    return flex_attention(q, k, v, block_mask=mask, kernel_options=options)[0].transpose(0, 1)


def block_mask(of_queries: Spans, of_keys: Spans, causal: bool) -> BlockMask:
    """Rows of the same sentence see each other; with `causal`, for the same rows on both sides, not the later ones.

    The sentences of a block lie one after another on the other side too, so its blocks there are a range. (torch's own
    `create_block_mask` gives the same, but looks at all pairs of rows.)
    """
    query_sentences, key_sentences = of_queries.sentences, of_keys.sentences

    def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        same = query_sentences[query] == key_sentences[key]
        return same & (key <= query) if causal else same

    first, last = _blocks_of(of_queries, of_keys)
    first_query, last_query = _blocks_of(of_keys, of_queries)
    if causal:
        own = torch.arange(first.size(0), device=first.device)
        last, first_query = torch.minimum(last, own + 1), torch.maximum(first_query, own)
    lengths = query_sentences.size(0), key_sentences.size(0)
    keys, queries = _listed(first, last, first_query.size(0)), _listed(first_query, last_query, first.size(0))
    none = None, None  # blocks where nothing is masked: there are none
    return BlockMask(lengths, *keys, *none, *queries, *none, BLOCK_SIZE=(BLOCK, BLOCK), mask_mod=sees)


def _blocks_of(here: Spans, there: Spans) -> tuple[Tensor, Tensor]:
    """For each block of rows here: the first block there with a row of its sentences, and the one behind the last."""
    rows = here.sentences.size(0)
    start = torch.arange(0, rows, BLOCK, device=here.sentences.device)
    first, last = here.sentences[start].long(), here.sentences[(start + BLOCK - 1).clamp(max=rows - 1)].long()
    return there.bounds[first] // BLOCK, (there.bounds[last + 1] + BLOCK - 1) // BLOCK


def _listed(first: Tensor, last: Tensor, blocks: int) -> tuple[Tensor, Tensor]:
    """How many blocks each range has, and which ones, as BlockMask wants them: for one batch and one head."""
    places = torch.arange(blocks, device=first.device)
    which = (first[:, None] + places).clamp(max=blocks - 1)
    return (last - first).clamp(min=0).to(torch.int32)[None, None], which.to(torch.int32)[None, None]
