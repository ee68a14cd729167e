"""Attention of a few rows, memory's, and many gives what a module of attention gives, in another order of products."""

from memtrans_fairseq.modules import block, one_sided

import pytest
import torch
from fairseq.modules import MultiheadAttention
from toy import batch, build, sentences, shake

FEW, MANY, CHANNELS, HEADS = 3, 1000, 64, 4
SIDES = pytest.mark.parametrize(
    ("few_are_queries", "padded"), [(True, False), (True, True), (False, False)], ids=["queries", "padded", "keys"]
)


@pytest.fixture
def attention():
    torch.manual_seed(0)
    made = MultiheadAttention(CHANNELS, HEADS)
    for project in (made.q_proj, made.k_proj, made.v_proj, made.out_proj):
        torch.nn.init.normal_(project.bias)
    return made.train()


def ways(attention, few_are_queries, padded):
    """The module's and ours, functions of queries and keys."""
    mask = torch.zeros(2, MANY, dtype=torch.bool) if padded else None
    if mask is not None:
        mask[1, :50] = True

    def ours(queries, keys):
        if few_are_queries:
            return one_sided.few_queries(attention, queries, keys, mask)
        return one_sided.few_keys(attention, queries, keys)

    return lambda queries, keys: attention(queries, keys, keys, key_padding_mask=mask)[0], ours


def rows(few_are_queries, dtype=torch.float32):
    """Queries and keys."""
    few, many = (torch.randn(number, 2, CHANNELS, dtype=dtype, requires_grad=True) for number in (FEW, MANY))
    return (few, many) if few_are_queries else (many, few)


def learned(way, attention, given, weight=1.0):
    """What comes out, and the gradients of a sum of it."""
    out = way(*given)
    loss = (out.double() * torch.arange(out.numel()).sin().view_as(out)).sum() * weight
    return [out, *torch.autograd.grad(loss, [*given, *attention.parameters()])]


@SIDES
def test_a_few_rows_give_and_learn_the_same(attention, few_are_queries, padded):
    attention.double()
    given = rows(few_are_queries, torch.float64)
    expected, found = (learned(way, attention, given) for way in ways(attention, few_are_queries, padded))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-9, rtol=1e-9)


@SIDES
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_few_rows_are_as_exact_in_autocast(attention, few_are_queries, padded, dtype):
    of_module, ours = ways(attention, few_are_queries, padded)
    given = rows(few_are_queries)
    exact = of_module(*given)
    with torch.autocast("cpu", dtype):
        usual, found = of_module(*given), ours(*given)
    assert found.dtype == dtype
    assert (found - exact).norm() < 1.5 * (usual - exact).norm()


@SIDES
def test_small_gradients_are_as_exact_in_half_precision(attention, few_are_queries, padded):
    given = rows(few_are_queries)
    exact, *_ = (learned(way, attention, given, 1e-3) for way in ways(attention, few_are_queries, padded))
    halved = [x.detach().half().requires_grad_() for x in given]
    usual, found = (learned(way, attention.half(), halved, 1e-3) for way in ways(attention, few_are_queries, padded))
    names = ["out", "queries", "keys", *(name for name, _ in attention.named_parameters())]
    for name, one, of_module, true in zip(names, found, usual, exact, strict=True):
        if name != "k_proj.bias":  # has none but for rounding
            assert (one - true).norm() < 1.5 * (of_module - true).norm() + 1e-3 * true.norm(), name


def test_what_a_few_queries_see_of_many_large_keys_is_finite_in_half_precision(attention):
    queries, keys = torch.zeros(FEW, 2, CHANNELS).half(), torch.full((8192, 2, CHANNELS), 20.0).half()
    assert one_sided.few_queries(attention.half(), queries, keys, None).isfinite().all()


@pytest.mark.parametrize("few_are_queries", [True, False], ids=["queries", "keys"])
def test_scores_may_be_large(attention, few_are_queries):
    given = rows(few_are_queries)
    of_module, ours = ways(attention, few_are_queries, padded=False)
    sharp = [1000 * given[0], given[1]]
    torch.testing.assert_close(ours(*sharp), of_module(*sharp), atol=1e-3, rtol=1e-3)


def test_padded_keys_are_not_seen_however_few(attention):
    queries, keys = rows(few_are_queries=False)
    mask = torch.tensor([[False, False, False], [True, False, False]])
    expected = attention(queries, keys, keys, key_padding_mask=mask)[0]
    torch.testing.assert_close(block._ignoring(mask)(attention, queries, keys), expected)


@pytest.mark.parametrize("lengths", [[90, 90], [90, 40, 70]], ids=["equal", "padded"])
@pytest.mark.parametrize("name", ["mem_ctrl", "mem_bottleneck"])
def test_a_variant_learns_the_same_either_way(name, lengths, monkeypatch):
    model = shake(build(f"{name}_transformer", memory_tokens=2, dropout=0.0)).train()
    calls = calls_of_memory(model)
    found = []
    for ratio in (10**6, one_sided.RATIO):
        monkeypatch.setattr(one_sided, "RATIO", ratio)
        model.zero_grad()
        out = model.encoder(batch(sentences(lengths)))["encoder_out"][0]
        out.square().sum().backward()
        found.append({"out": out} | {n: p.grad for n, p in model.encoder.named_parameters() if p.grad is not None})
    assert len(calls) == 1  # the second time, no module of attention is asked
    assert found[0].keys() == found[1].keys()
    for key, expected in found[0].items():
        torch.testing.assert_close(found[1][key], expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    ("few", "many", "taken"),
    [(15, 999, True), (16, 999, False), (15, 15 * 32, True), (15, 15 * 32 - 1, False)],
    ids=["fewer than channels with all heads", "as many", "of enough", "of too few"],
)
def test_it_is_taken_where_it_is_cheaper(few, many, taken, attention, monkeypatch):
    asked = []
    for name in ("few_queries", "few_keys"):
        monkeypatch.setattr(block, name, lambda *_, name=name: asked.append(name))
    few, many = torch.zeros(few, 1, CHANNELS), torch.zeros(many, 1, CHANNELS)
    attend = block._ignoring(None)
    attend(attention, few, many)
    attend(attention, many, few)
    assert asked == ["few_queries", "few_keys"] * taken


@pytest.mark.parametrize("name", ["q_proj", "k_proj", "v_proj", "out_proj"])
def test_a_projection_of_another_kind_is_asked_itself(attention, name):
    class Quantised(torch.nn.Linear):
        pass

    few, many = rows(few_are_queries=True)
    assert one_sided.reorders(attention, few, many)
    setattr(attention, name, Quantised(CHANNELS, CHANNELS))
    assert not one_sided.reorders(attention, few, many)


def test_a_gpu_must_have_enough_to_do(attention):
    def taken(rows, batch):
        few, many = (torch.empty(number, batch, CHANNELS, device="meta") for number in (FEW, rows))
        return one_sided.reorders(attention, few, many)

    assert taken(2**14, 8)
    assert not taken(2**14, 7)
    assert not taken(2**6, 2**11), "not many to each of the few"


@pytest.mark.parametrize(
    ("options", "training"), [({}, False), ({"attention_dropout": 0.2}, True), ({"quant_noise_pq": 0.2}, True)]
)
def test_where_a_module_of_attention_is_needed_a_few_padded_rows_are_plain_products(options, training, monkeypatch):
    """Where it is watched (probes watch in eval mode), and for dropout and noise."""
    model = shake(build("mem_bottleneck_transformer", memory_tokens=2, **options)).train(training)
    calls = calls_of_memory(model)
    found = []
    for ratio in (10**6, block.RATIO):
        monkeypatch.setattr(block, "RATIO", ratio)
        torch.manual_seed(0)
        found.append(model.encoder(batch(sentences([90, 40, 70])))["encoder_out"][0])
    assert calls == [False, True]
    if not training:
        torch.testing.assert_close(*found)


def calls_of_memory(model):
    """Fills with whether weights are asked for, at each call of the first layer's attention of memory."""
    calls = []
    attention = model.encoder.layers[0].memory_block.attention
    attention.register_forward_pre_hook(lambda *call: calls.append(call[2]["need_weights"]), with_kwargs=True)
    return calls
