"""Attention between a few rows, memory's, and many, without projecting the many: the same products in another order.

Queries x see keys y, which are also the values: softmax(x Wq (y Wk)') y Wv Wo, for each head. Two of the four
projections are of the many rows, C x C channels each. Instead, the few are projected to the channels of the many:

    few queries    softmax((x Wq Wk') y') y, then Wv Wo
    few keys       softmax(x (y Wk Wq')') (y Wv Wo)

Each of the many rows then meets heads x few rows of C channels, twice: fewer products if those are fewer than C, and no
fused kernel with a handful of rows on one side, at which FlashAttention's backward pass is slow. In half precision
scores are rounded to it, as when attention weights are asked for; a fused kernel keeps them in float32.

Shape legend: F few rows, N many rows, B batch, C channels, H heads, D = C / H.
"""

import torch
from fairseq.modules import MultiheadAttention
from torch import Tensor, nn

RATIO = 32  # of many rows to few ones
BUSY = 2**17  # many rows of all sentences, from which a GPU takes longer to compute than to be told what


def reorders(attention: MultiheadAttention, few: Tensor, many: Tensor) -> bool:
    """Whether an attention as `Block` makes it, of F x B x C and N x B x C, is to take the other order.

    In training, where it costs less: it has fewer products, but half as many operations again. For the same result
    weights must sum to one, and projections be matrices without noise. At other times than in training a module of
    attention may be watched.
    """
    rows, batch, _ = many.shape
    worth = rows >= RATIO * len(few) and attention.num_heads * len(few) < attention.embed_dim
    worth = worth and (many.device.type == "cpu" or rows * batch >= BUSY)
    projections = (attention.q_proj, attention.k_proj, attention.v_proj, attention.out_proj)
    plain = all(type(project) is nn.Linear and not project._forward_pre_hooks for project in projections)
    return worth and plain and attention.training and not attention.dropout_module.p


def few_queries(attention: MultiheadAttention, queries: Tensor, keys: Tensor, padding_mask: Tensor | None) -> Tensor:
    """What `attention` gives for queries F x B x C of keys N x B x C, without those where padding_mask, B x N, is True.

    Returns F x B x C.
    """
    heads, channels = attention.num_heads, attention.embed_dim
    to_keys, to_values = (project.weight.view(heads, -1, channels) for project in (attention.k_proj, attention.v_proj))
    # the keys' bias adds the same to all scores of a query, which softmax takes away: its gradient is zero, but there
    x = attention.q_proj(queries) * attention.scaling + 0 * attention.k_proj.bias
    y = keys.transpose(0, 1)
    rows = torch.einsum("fbhd,hdc->bchf", x.unflatten(-1, (heads, -1)), to_keys).flatten(2)
    # with N last, rows would often have a number of bytes that is no multiple of 16: such kernels take far longer
    scores = torch.bmm(y, rows)  # B x N x H * F
    if padding_mask is not None:
        scores = scores.masked_fill(padding_mask.unsqueeze(-1), float("-inf"))
    # softmax by hand: torch's own takes many times as long where it does not go along the rows
    wide = scores.to(_wide(scores))
    weights = (wide - wide.detach().amax(1, keepdim=True)).exp()
    weights = (weights / weights.sum(1, keepdim=True)).to(scores.dtype)
    seen = torch.bmm(weights.transpose(1, 2), y).unflatten(1, (heads, -1))  # B x H x F x C
    values = torch.einsum("bhfc,hdc->fbhd", seen, to_values).flatten(2) + attention.v_proj.bias
    return attention.out_proj(values)


def few_keys(attention: MultiheadAttention, queries: Tensor, keys: Tensor) -> Tensor:
    """What `attention` gives for queries N x B x C of keys F x B x C. Returns N x B x C."""
    heads, channels = attention.num_heads, attention.embed_dim
    to_queries = attention.q_proj.weight.view(heads, -1, channels)
    to_output = attention.out_proj.weight.view(channels, heads, -1)
    y = (attention.k_proj(keys) * attention.scaling).unflatten(-1, (heads, -1))  # F x B x H x D
    of_bias = torch.einsum("fbhd,hd->bhf", y, attention.q_proj.bias.view(heads, -1)).flatten(1).unsqueeze(1)
    rows = torch.einsum("fbhd,hdc->bchf", y, to_queries).flatten(2)
    scores = torch.baddbmm(of_bias, queries.transpose(0, 1), rows).unflatten(-1, (heads, -1))  # B x N x H x F
    weights = scores.softmax(-1, dtype=_wide(scores)).to(scores.dtype).flatten(2)
    values = torch.einsum("fbhd,chd->bhfc", attention.v_proj(keys).unflatten(-1, (heads, -1)), to_output)
    seen = torch.bmm(weights, values.flatten(1, 2)).transpose(0, 1)
    return seen + attention.out_proj.bias.to(seen.dtype)


def _wide(x: Tensor) -> torch.dtype:
    """float32 for half precision."""
    return torch.promote_types(x.dtype, torch.float32)
