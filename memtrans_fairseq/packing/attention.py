"""Attention of sentences that lie one after another: each sees itself, or its own rows elsewhere, alone.

Shape legend: N rows of all sentences, B sentences, L rows of the longest here, H heads, D channels of each, C = H x D.
"""

import functools
import importlib
import inspect
from collections.abc import Callable

import torch
import torch.nn.functional as F
from fairseq.modules import MultiheadAttention
from torch import Tensor, nn

from ..variants import SettingError
from .blocks import block_attention
from .spans import Spans

HALVES = (torch.float16, torch.bfloat16)


@functools.cache
def flash_attention() -> Callable[..., Tensor] | None:
    """torch's FlashAttention of packed rows, since torch 2.11. (Its module takes two seconds to import.)"""
    try:
        function = importlib.import_module("torch.nn.attention.varlen").varlen_attn
    except ImportError:
        return None
    return function if "window_size" in inspect.signature(function).parameters else None


def check_kernel(x: Tensor) -> None:
    """Refuse a GPU's tensors, parameters or what autocast makes of them, without such a kernel. Raises SettingError."""
    if not x.is_cuda:
        return
    dtype = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else x.dtype
    needs = "packed batches need {} on a GPU, this is {}: train.packed=false does without"
    if dtype not in HALVES:
        raise SettingError(needs.format("half precision (amp, fp16, bf16)", dtype))
    if flash_attention() is None:
        raise SettingError(needs.format("torch 2.11", torch.__version__))


def attend(
    module: MultiheadAttention, queries: Tensor, keys: Tensor, of_queries: Spans, of_keys: Spans, causal: bool = False
) -> Tensor:
    """`module` over packed rows, without dropout of weights: queries N x C, keys (also the values) N' x C. N x C."""
    if queries is keys:
        q, k, v = _projected(queries, module.q_proj, module.k_proj, module.v_proj)
    else:
        q, (k, v) = module.q_proj(queries), _projected(keys, module.k_proj, module.v_proj)
    q, k, v = (x.unflatten(-1, (module.num_heads, -1)) for x in (q, k, v))
    return module.out_proj(attention(q, k, v, of_queries, of_keys, causal).flatten(1))


def _projected(rows: Tensor, *projections: nn.Linear) -> tuple[Tensor, ...]:
    """`rows` N x C through each projection, as one product: a GPU takes a wide one faster than several."""
    weight = torch.cat([projection.weight for projection in projections])
    bias = torch.cat([projection.bias for projection in projections])
    return F.linear(rows, weight, bias).chunk(len(projections), dim=-1)


def attention(q: Tensor, k: Tensor, v: Tensor, of_queries: Spans, of_keys: Spans, causal: bool = False) -> Tensor:
    """q N x H x D; k, v N' x H x D. Returns N x H x D. A sentence with rows in q has some in k.

    On a GPU, FlexAttention's kernel where compiled, and otherwise FlashAttention's, both in half precision alone; on a
    CPU sentences are padded on the way.
    """
    if q.is_cuda and torch.compiler.is_compiling():
        return block_attention(q, k, v, of_queries, of_keys, causal)
    if q.is_cuda:
        bounds = of_queries.bounds, of_keys.bounds, of_queries.longest, of_keys.longest
        flash = flash_attention()
        assert flash is not None, "see check_kernel"
        return flash(q, k, v, *bounds, window_size=(-1, 0 if causal else -1))
    (q, is_query), (k, is_key), (v, _) = _padded(q, of_queries), _padded(k, of_keys), _padded(v, of_keys)
    is_key[:, 0] = True  # a sentence without rows: what it gets is dropped below, but must be a number
    mask = is_key[:, None, None, :]
    if causal:
        mask = mask & torch.ones(q.size(2), k.size(2), dtype=torch.bool, device=q.device).tril()
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)[is_query]


def _padded(x: Tensor, spans: Spans) -> tuple[Tensor, Tensor]:
    """x N x H x D. Returns B x H x L x D and B x L, which is True for rows of x."""
    starts, ends = spans.bounds[:-1, None], spans.bounds[1:, None]
    places = starts + torch.arange(int((ends - starts).max()), device=x.device)
    return x[places.clamp(max=x.size(0) - 1)].transpose(1, 2), places < ends
