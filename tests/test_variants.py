"""Each variant against something independent: fairseq's own transformer, x-transformers, the paper's equations."""

import argparse

from memtrans_fairseq.modules.block import EncoderRows
from memtrans_fairseq.presets import TRANSLATION
from memtrans_fairseq.variants import VARIANTS

import pytest
import torch
import torch.nn.functional as F
from fairseq import models, options
from fairseq.dataclass.initialize import add_defaults
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.models import ARCH_CONFIG_REGISTRY
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf
from test_contract import translate
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from toy import PAD, TASK, batch, build, sentences, shake

M = 4


def trained(model):
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


# --- MemTransformer without memory is fairseq's transformer -------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"encoder_normalize_before": True, "decoder_normalize_before": True}])
def test_without_memory_it_is_fairseqs_transformer(options, tmp_path):
    stock = shake(build("transformer", **options))
    torch.save(stock.state_dict(), tmp_path / "stock.pt")
    ours = build("mem_transformer", seed=5, memory_tokens=0, **options)
    assert list(ours.state_dict()) == list(stock.state_dict())
    assert trained(ours) == trained(stock)
    ours.load_state_dict(torch.load(tmp_path / "stock.pt"), strict=True)
    source = sentences([5, 9, 7, 3])
    target = batch(sentences([6] * 4, seed=1))
    torch.testing.assert_close(
        ours(batch(source), None, target)[0], stock(batch(source), None, target)[0], atol=1e-5, rtol=0
    )
    assert translate([ours], source, 2) == translate([stock], source, 2)


@pytest.mark.parametrize("tokens", [0, 4])
def test_the_same_seed_starts_from_the_same_weights_as_the_baseline(tokens):
    ours = dict(build("mem_transformer", memory_tokens=tokens).named_parameters())
    ours.pop("encoder.memory.weight", None)
    stock = dict(build("transformer").named_parameters())
    assert ours.keys() == stock.keys()
    assert all(torch.equal(ours[name], stock[name]) for name in stock)


@pytest.mark.parametrize("tokens", [1, 7])
def test_memory_adds_exactly_its_own_vectors(tokens):
    assert trained(build("mem_transformer", memory_tokens=tokens)) == trained(build("transformer")) + tokens * 16


# --- an independent oracle ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("pre_norm", [False, True])
def test_encoder_equals_x_transformers_with_the_same_weights(pre_norm):
    x_transformers = pytest.importorskip("x_transformers")
    ours = shake(
        build(
            "mem_transformer", memory_tokens=M, no_token_positional_embeddings=True, encoder_normalize_before=pre_norm
        )
    ).encoder
    for key, value in ours.named_parameters():  # x-transformers has no such biases
        if key.endswith("bias") and "fc" not in key:
            value.data.zero_()
    oracle = x_transformers.TransformerWrapper(
        num_tokens=ours.embed_tokens.num_embeddings,
        max_seq_len=32,
        use_abs_pos_emb=False,
        num_memory_tokens=M,
        attn_layers=x_transformers.Encoder(
            dim=16,
            depth=3,
            heads=4,
            attn_dim_head=4,
            pre_norm=pre_norm,
            norm_add_unit_offset=False,
            ff_mult=2,
            ff_custom_activation=torch.nn.ReLU(),
        ),
    ).eval()
    oracle.token_emb.emb.weight.data = ours.embed_scale * ours.embed_tokens.weight.data
    oracle.memory_tokens.data = ours.embed_scale * ours.memory.weight.data
    blocks = iter(oracle.attn_layers.layers)
    for layer in ours.layers:
        (norms, attention, _), (ff_norms, feed_forward, _) = next(blocks), next(blocks)
        for name in ("q", "k", "v"):
            getattr(attention, f"to_{name}").weight.data = getattr(layer.self_attn, f"{name}_proj").weight.data
        attention.to_out.weight.data = layer.self_attn.out_proj.weight.data
        next(n for n in norms if n is not None).gamma.data = layer.self_attn_layer_norm.weight.data
        next(n for n in ff_norms if n is not None).gamma.data = layer.final_layer_norm.weight.data
        linear = [module for module in feed_forward.modules() if isinstance(module, torch.nn.Linear)]
        for mine, theirs in zip((layer.fc1, layer.fc2), linear, strict=True):
            theirs.weight.data, theirs.bias.data = mine.weight.data, mine.bias.data
    if pre_norm:
        oracle.attn_layers.final_norm.gamma.data = ours.layer_norm.weight.data

    source = batch(sentences([9, 5]))
    seen = {}
    oracle.attn_layers.register_forward_hook(lambda module, args, out: seen.update(rows=out[0]))
    oracle(source, mask=source != PAD)
    real = F.pad(source != PAD, (M, 0), value=True)
    rows = ours(source)["encoder_out"][0].transpose(0, 1)
    torch.testing.assert_close(rows[real], seen["rows"][real], atol=1e-5, rtol=1e-5)


# --- the paper's equations, recomputed in float64 -----------------------------------------------------------------


def equation(block, queries, keys):
    """FF(Att(q, kv)) for one sentence, rows x C, by the formulas alone; post-LN."""

    def norm(x, layer):
        x = x - x.mean(-1, keepdim=True)
        return x / (x.square().mean(-1, keepdim=True) + layer.eps).sqrt() * layer.weight + layer.bias

    def linear(x, layer):
        return x @ layer.weight.T + layer.bias

    attention = block.attention
    q, k, v = (
        linear(x, p).unflatten(-1, (attention.num_heads, -1)).transpose(0, 1)
        for x, p in ((queries, attention.q_proj), (keys, attention.k_proj), (keys, attention.v_proj))
    )
    weights = torch.softmax(q @ k.transpose(1, 2) / k.size(-1) ** 0.5, dim=-1)
    a = norm(queries + linear((weights @ v).transpose(0, 1).flatten(1), attention.out_proj), block.attention_layer_norm)
    return norm(a + linear(linear(a, block.fc1).clamp(min=0), block.fc2), block.final_layer_norm)


@pytest.mark.parametrize("variant", ["mem_ctrl", "mem_bottleneck"])
def test_layers_follow_the_papers_equations(variant):
    layer = shake(build(f"{variant}_transformer", memory_tokens=M)).encoder.layers[0].double()
    x = torch.randn(M + 6, 16, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    memory = equation(layer.memory_block, x[:M], x)
    sequence = equation(layer.sequence_block, x[M:], x if variant == "mem_ctrl" else memory)
    rows = EncoderRows(M, None)
    torch.testing.assert_close(layer(x.unsqueeze(1), rows).squeeze(1), torch.cat([memory, sequence]))


def test_shared_memory_layers_are_one_sub_network():
    apart = build("mem_ctrl_transformer", memory_tokens=M)
    shared = build("mem_ctrl_transformer", memory_tokens=M, share_memory_layers=True)
    block = sum(p.numel() for p in apart.encoder.layers[0].memory_block.parameters())
    assert trained(apart) - trained(shared) == 2 * block
    assert trained(shared) - trained(build("transformer")) == block + M * 16


def test_identical_start_repeats_one_vector():
    weight = build("mem_transformer", memory_tokens=M, memory_init="identical").encoder.memory.weight
    assert torch.equal(weight, weight[:1].expand_as(weight))
    weight = build("mem_transformer", memory_tokens=50).encoder.memory.weight
    assert weight.unique(dim=0).size(0) == 50
    assert weight.std().item() == pytest.approx(16**-0.5, rel=0.1)


def test_frozen_memory_is_extra_rows_that_are_not_trained():
    """Not counted as parameters and without a gradient; all else is MemTransformer, to the last bit."""
    frozen, learned = (build("mem_transformer", memory_tokens=M, memory_frozen=value) for value in (True, False))
    assert trained(learned) - trained(frozen) == M * 16
    assert trained(frozen) == trained(build("mem_transformer", memory_tokens=0))
    source, target = batch(sentences([5, 9])), batch(sentences([6, 6], seed=1))
    outputs = [model(source, None, target)[0] for model in (frozen, learned)]
    assert torch.equal(*outputs)
    outputs[0].square().sum().backward()
    assert frozen.encoder.memory.weight.grad is None
    assert frozen.encoder.layers[0].fc1.weight.grad.any()


def test_memory_positions():
    """'prefix' is the same as giving the memory rows the first positions of one longer sentence; 'none' gives none."""
    source = batch(sentences([6]))
    table = build("mem_transformer", memory_tokens=0).encoder.embed_positions(torch.full((1, M + 6), 9))[0]
    for positions, expected in (("none", torch.cat([torch.zeros(M, 16), table[:6]])), ("prefix", table)):
        encoder = build("mem_transformer", memory_tokens=M, memory_positions=positions).encoder
        tokens = encoder.embed_scale * torch.cat([encoder.memory.weight, encoder.embed_tokens(source)[0]])
        torch.testing.assert_close(encoder.forward_embedding(source)[0][0] - tokens, expected)


# --- MemBottleneck ------------------------------------------------------------------------------------------------


def test_bottleneck_leaks_nothing_between_sequence_elements():
    """With the memory's own update cut off from the sequence, a token changes no position but its own."""
    encoder = shake(build("mem_bottleneck_transformer", memory_tokens=M)).encoder
    source = batch(sentences([8]))
    changed = source.clone()
    changed[0, 3] = 4 if source[0, 3] != 4 else 5
    leaky = (encoder(source)["encoder_out"][0] - encoder(changed)["encoder_out"][0]).abs().amax(-1)[:, 0] > 1e-6
    assert leaky.all(), "through memory, one token reaches every row"
    for layer in encoder.layers:
        cut = layer.memory_block.forward
        layer.memory_block.forward = lambda q, kv, attend, cut=cut: cut(q, kv[:M], attend)
    difference = (encoder(source)["encoder_out"][0] - encoder(changed)["encoder_out"][0]).abs().amax(-1)[:, 0]
    assert [row for row, value in enumerate(difference) if value > 0] == [M + 3]


class LargestSquare(TorchDispatchMode):
    """Notes the largest n for which some operation returned a tensor with two dimensions of at least n."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, torch.Tensor) and tensor.dim() > 1:
                self.largest = max(self.largest, sorted(tensor.shape)[-2])
        return out


@pytest.mark.parametrize(("name", "linear"), [("mem_bottleneck_transformer", True), ("mem_transformer", False)])
def test_only_the_bottleneck_is_linear_in_the_length(name, linear):
    encoder = build(name, memory_tokens=M).encoder
    flops = {}
    # the fused attention kernels hide their products from the counters; the plain one shows them
    for length in (250, 500, 1000):
        tokens = torch.full((1, length), 7)
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, LargestSquare() as square:
            encoder(tokens)
        flops[length] = counter.get_total_flops()
    growth = (flops[1000] - flops[500]) / (flops[500] - flops[250])
    if linear:
        assert growth == pytest.approx(2, rel=1e-6)
        assert square.largest < 100, "an n x n matrix"
    else:
        assert growth > 2.5
        assert square.largest == M + 1000


# --- what the decoder reads ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("reads", "rows"), [("all", slice(None)), ("sequence", slice(M, None)), ("memory", slice(M))])
def test_decoder_reads_exactly_those_rows(reads, rows):
    model = shake(build("mem_transformer", memory_tokens=M, decoder_reads=reads))
    out, target = model.encoder(batch(sentences([9, 5]))), batch(sentences([6, 6], seed=1))
    out["encoder_out"][0].requires_grad_().retain_grad()
    model.decoder(target, out)[0].square().sum().backward()
    touched = out["encoder_out"][0].grad.abs().sum(-1)[:, 0] > 0
    expected = torch.zeros(M + 9, dtype=torch.bool)
    expected[rows] = True
    assert torch.equal(touched, expected)


# --- presets ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", TRANSLATION)
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_preset_takes_effect_on_the_command_line_and_yields_to_it(variant, size):
    parser = options.get_training_parser()
    arguments = ["data", "--arch", f"{variant}_transformer_{size}", "--memory-tokens", "7", "--encoder-layers", "3"]
    args = options.parse_args_and_arch(parser, arguments)
    model = convert_namespace_to_omegaconf(args).model
    expected = TRANSLATION[size] | {"memory_tokens": 7, "encoder_layers": 3}
    assert {key: model[key] for key in expected} == expected


@pytest.mark.parametrize("size", TRANSLATION)
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_preset_takes_effect_in_hydra(variant, size):
    node = ConfigStore.instance().repo["model"][f"{variant}_transformer_{size}.yaml"].node
    cfg = OmegaConf.create({"model": node})
    cfg.model.memory_tokens = 7
    add_defaults(cfg)
    assert {key: cfg.model[key] for key in TRANSLATION[size]} == TRANSLATION[size]
    torch.manual_seed(0)
    if size == "demo":
        built = models.build_model(cfg.model, TASK)
        assert len(built.encoder.layers) == TRANSLATION[size]["encoder_layers"]
        assert built.encoder.memory.weight.shape == (7, TRANSLATION[size]["encoder_embed_dim"])


def test_presets_leave_given_values_alone():
    args = argparse.Namespace(encoder_layers=11)
    ARCH_CONFIG_REGISTRY["mem_transformer_small"](args)
    assert args.encoder_layers == 11
    assert args.decoder_layers == 4


def test_the_decoder_follows_the_encoders_width():
    model = build("mem_transformer", encoder_embed_dim=24, encoder_ffn_embed_dim=40)
    assert model.decoder.layers[0].fc1.weight.shape == (40, 24)
    assert F.linear(torch.zeros(24), model.decoder.layers[0].fc1.weight).shape == (40,)
