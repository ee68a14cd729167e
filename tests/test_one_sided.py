"""Attention of a few rows, memory's, and many gives what a module of attention gives, in another order of products."""

from memtrans_fairseq.modules import block, one_sided

import pytest
import torch
from fairseq.modules import MultiheadAttention
from toy import batch, build, sentences, shake

FEW, MANY, CHANNELS, HEADS = 3, 200, 64, 4


@pytest.fixture
def attention():
    torch.manual_seed(0)
    made = MultiheadAttention(CHANNELS, HEADS)
    for project in (made.q_proj, made.k_proj, made.v_proj, made.out_proj):
        torch.nn.init.normal_(project.bias)
    return made.train()


def both_ways(attention, few_are_queries, padded):
    """Functions of queries and keys, the module's and ours, and rows for them."""
    few, many = (torch.randn(rows, 2, CHANNELS, requires_grad=True) for rows in (FEW, MANY))
    mask = torch.zeros(2, MANY, dtype=torch.bool) if padded else None
    if mask is not None:
        mask[1, :50] = True
    rows = (few, many) if few_are_queries else (many, few)

    def ours(queries, keys):
        if few_are_queries:
            return one_sided.few_queries(attention, queries, keys, mask)
        return one_sided.few_keys(attention, queries, keys)

    return lambda queries, keys: attention(queries, keys, keys, key_padding_mask=mask)[0], ours, rows


@pytest.mark.parametrize(
    ("few_are_queries", "padded"), [(True, False), (True, True), (False, False)], ids=["queries", "padded", "keys"]
)
class TestFew:
    def test_give_and_learn_the_same(self, attention, few_are_queries, padded):
        *ways, rows = both_ways(attention, few_are_queries, padded)
        found = []
        for way in ways:
            attention.zero_grad()
            out = way(*rows)
            gradients = torch.autograd.grad(
                (out * torch.arange(CHANNELS)).sin().mean(), [*rows, *attention.parameters()]
            )
            found.append([out, *gradients])
        for expected, given in zip(*found, strict=True):
            torch.testing.assert_close(given, expected, atol=1e-5, rtol=1e-4)

    def test_are_as_exact_in_half_precision(self, attention, few_are_queries, padded):
        of_module, ours, rows = both_ways(attention, few_are_queries, padded)
        exact = of_module(*rows)
        with torch.autocast("cpu", torch.bfloat16):
            usual, given = of_module(*rows), ours(*rows)
        assert given.dtype == torch.bfloat16
        assert (given - exact).norm() < 1.5 * (usual - exact).norm()


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
