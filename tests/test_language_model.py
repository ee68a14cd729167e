"""What every memory variant must meet in the causal host, wherever its memory stands."""

import copy
from argparse import Namespace

from memtrans_fairseq.variants import VARIANTS, SettingError

import pytest
import torch
from fairseq import models
from lm_toy import DICTIONARY, EOS, PAD, SIZE, TASK, build, shake, stream, text

M = 3
FRONT = {"memory_tokens": M}
INTERSPERSED = {"memory_tokens": M, "memory_placement": "interspersed", "memory_every": 4}
RECURRENT = {"memory_tokens": M, "memory_placement": "recurrent"}
PLACEMENTS = {
    "front": FRONT,
    "front-cache": FRONT | {"mem_len": 7},
    "interspersed": INTERSPERSED,
    "interspersed-cache": INTERSPERSED | {"mem_len": 13},
    "recurrent": RECURRENT,
    "recurrent-cache": RECURRENT | {"mem_len": 5},
    "recurrent-chunks": RECURRENT | {"memory_every": 4},
    "recurrent-pre_ln": RECURRENT | {"decoder_normalize_before": True},
}
CASES = {"transformer_xl": ("transformer_xl", {}), "transformer_xl-cache": ("transformer_xl", {"mem_len": 9})}
for _variant in VARIANTS.values():
    for _id, _options in PLACEMENTS.items():
        if not _variant.bottleneck or ("mem_len" not in _options and _options is not FRONT):
            CASES[f"{_variant.name}-{_id}"] = (f"{_variant.name}_transformer_lm", _options)
CASES["mem_ctrl-shared"] = ("mem_ctrl_transformer_lm", INTERSPERSED | {"share_memory_layers": True})
CASES["mem_bottleneck-window"] = (
    "mem_bottleneck_transformer_lm",
    RECURRENT | {"memory_every": 4, "attention_window": 1},
)
every_model = pytest.mark.parametrize(("name", "options"), CASES.values(), ids=list(CASES))


@pytest.fixture
def model(name, options):
    return shake(build(name, **options))


def with_gradients(model):
    """Let the word embeddings of each segment that the model reads be asked for their gradients; returns the list."""
    vocabulary, leaves = model.decoder.vocabulary, []
    embed = vocabulary.embed

    def leaf(words):
        leaves.append(embed(words).detach().requires_grad_())
        return leaves[-1]

    vocabulary.embed = leaf
    return leaves


@every_model
def test_no_token_sees_a_later_one(model):
    """Exactly: the gradient is zero, in the first segment and in one that state was carried to, in both modes."""
    for training in (False, True):
        model.train(training)
        leaves, state = with_gradients(model), None
        for segment in text(2, 18).split(10, dim=1):
            leaves.clear()
            features, extra = model(segment, state=state)
            for position in range(segment.size(1)):
                gradient = torch.autograd.grad(features[:, position].sum(), leaves[-1], retain_graph=True)[0]
                assert not gradient[:, position + 1 :].any()
                assert gradient[:, position].abs().sum() > 1e-6, "a token that changes nothing proves nothing"
            state = extra["state"]


@every_model
def test_state_brings_the_past(model, name, options):
    tokens = text(2, 20)
    other = tokens.clone()
    other[:, 4] = (tokens[:, 4] - EOS + 1) % 60 + EOS
    changed = (stream(model, tokens, 10) - stream(model, other, 10)).abs().amax(dim=(0, 2))
    carries = bool(options.get("mem_len")) or options.get("memory_placement") == "recurrent"
    assert not changed[:4].any()
    assert (changed[10:].max() > 1e-6) == carries


@every_model
def test_a_row_does_not_depend_on_its_batch(model):
    tokens = text(3, 20)
    together = stream(model, tokens, 10)
    for row in range(3):
        torch.testing.assert_close(stream(model, tokens[row : row + 1], 10)[0], together[row])


@every_model
def test_padding_at_the_end_changes_no_real_token(model):
    tokens = text(2, 10)
    padded = torch.cat([tokens, torch.full((2, 5), PAD)], dim=1)
    torch.testing.assert_close(model(padded)[0][:, :10], model(tokens)[0])


@every_model
def test_every_parameter_gets_a_gradient(model, name):
    model.train()
    tokens = text(2, 11)
    features, _ = model(tokens[:, :-1])
    model.nll(features, tokens[:, 1:]).sum().backward()
    missing = [n for n, p in model.named_parameters() if p.grad is None]
    assert missing == []
    # nothing reads what the last layer writes into memory but the next segment, and its attention weighs one group
    last = f"layers.{len(model.decoder.layers) - 1}."
    idle = [n for n, p in model.named_parameters() if not p.grad.any() and last not in n]
    assert idle == []
    if model.decoder.memory is not None:
        assert model.decoder.memory.weight.grad.any(dim=1).all()


@every_model
def test_output_survives_a_checkpoint(model, name, options, tmp_path):
    tokens = text(2, 20)
    torch.save(model.state_dict(), tmp_path / "model.pt")
    other = build(name, seed=9, **options)
    other.load_state_dict(torch.load(tmp_path / "model.pt"), strict=True)
    torch.testing.assert_close(stream(other, tokens, 10), stream(model, tokens, 10), atol=0, rtol=0)


@every_model
def test_activation_checkpointing_changes_nothing(model, name, options):
    saving = build(name, checkpoint_activations=True, **options)
    saving.load_state_dict(model.state_dict())
    tokens = text(2, 11)
    for one in (model, saving):
        one.train()
        features, _ = one(tokens[:, :-1])
        one.nll(features, tokens[:, 1:]).sum().backward()
    for (key, one), two in zip(model.named_parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, msg=key)


def test_without_memory_tokens_it_is_transformer_xl():
    plain, none = shake(build("transformer_xl")), build("mem_transformer_lm", memory_tokens=0)
    none.load_state_dict(plain.state_dict(), strict=True)
    tokens = text(2, 10)
    torch.testing.assert_close(none(tokens)[0], plain(tokens)[0], atol=0, rtol=0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_memory_adds_tokens_times_channels(variant):
    options = INTERSPERSED | {"memory_tokens": 1}
    few, many = (build(f"{variant}_transformer_lm", **options | {"memory_tokens": m}) for m in (1, 6))
    assert sum(p.numel() for p in many.parameters()) - sum(p.numel() for p in few.parameters()) == 5 * 12


def test_memory_does_not_change_how_other_parameters_start():
    plain = dict(build("transformer_xl").named_parameters())
    memory = dict(build("mem_transformer_lm", memory_tokens=5).named_parameters())
    assert memory.keys() - plain.keys() == {"decoder.memory.weight"}
    assert all(torch.equal(memory[name], plain[name]) for name in plain)


# what goes through memory


def test_front_memory_is_a_prefix_that_sees_no_token():
    model = shake(build("mem_transformer_lm", **FRONT))
    seen = []
    model.decoder.layers[-1].register_forward_hook(lambda module, args, out: seen.append(out[:, :M]))
    model(text(1, 9, seed=1)), model(text(1, 9, seed=2))
    torch.testing.assert_close(seen[0], seen[1], atol=0, rtol=0)


def test_interspersed_memory_sees_what_came_before_it_alone():
    model = shake(build("mem_transformer_lm", **INTERSPERSED))
    seen = []
    model.decoder.layers[-1].register_forward_hook(lambda module, args, out: seen.append(out[0]))
    tokens = text(1, 12)
    other = tokens.clone()
    other[0, 5] = (tokens[0, 5] - EOS + 1) % 60 + EOS  # in the second chunk of four
    model(tokens), model(other)
    changed = (seen[0] - seen[1]).abs().amax(dim=1) > 1e-9
    first, second, third = changed[:M], changed[M + 4 : 2 * M + 4], changed[2 * (M + 4) : 3 * M + 8]
    assert not first.any()
    assert not second.any()
    assert third.all()


@pytest.mark.parametrize("window", [1, 2, 4])
def test_a_bottleneck_sees_beyond_its_window_only_through_memory(window):
    """With the memory path cut, changing a token changes no position of another chunk, and none past the window."""
    model = shake(build("mem_bottleneck_transformer_lm", **INTERSPERSED, attention_window=window))
    tokens = text(1, 20)
    reach = (window - 1) * len(model.decoder.layers)  # each layer looks back window - 1 tokens

    def changed(place):
        other = tokens.clone()
        other[0, place] = (tokens[0, place] - EOS + 1) % 60 + EOS
        return (model(tokens)[0] - model(other)[0]).abs().amax(dim=(0, 2)) > 1e-9

    assert changed(1)[4:8].all(), "through memory it must reach the next chunk"
    for layer in model.decoder.layers:  # cut: what is written is the same whatever was read
        layer.memory_block.register_forward_hook(lambda module, args, out: torch.zeros_like(out))
    for place in range(20):
        expected = torch.zeros(20, dtype=torch.bool)
        expected[place : min(place + reach, place // 4 * 4 + 3) + 1] = True
        assert torch.equal(changed(place), expected), place


def test_a_bottlenecks_cost_is_linear():
    from torch.utils.flop_counter import FlopCounterMode

    model = build("mem_bottleneck_transformer_lm", **INTERSPERSED)
    counts = []
    for length in (64, 128, 256):
        with FlopCounterMode(display=False) as counter:
            model(text(1, length))
        counts.append(counter.get_total_flops())
    assert counts[2] - counts[1] == pytest.approx(2 * (counts[1] - counts[0]), rel=0.01)


def test_gradients_go_back_through_as_many_segments_as_asked():
    tokens = text(2, 40)
    for bptt in range(4):
        model = shake(build("mem_transformer_lm", **RECURRENT, memory_bptt=bptt)).train()
        leaves, state = with_gradients(model), None
        for segment in tokens.split(10, dim=1):
            leaves.clear()
            features, extra = model(segment, state=state)
            state = extra["state"]
        assert len(leaves) == bptt + 1
        gradients = torch.autograd.grad(features.sum(), leaves)
        assert all(gradient.any() for gradient in gradients)
        assert all(not leaf.requires_grad for leaf in [state["memory"], *(s["memory"] for s in state.get("past", []))])


def test_going_back_through_segments_gives_the_same_numbers():
    """Without dropout and updates between, reading earlier segments again changes no output, only gradients."""
    tokens, outputs = text(2, 40), []
    for bptt in (0, 2):
        model = shake(build("mem_transformer_lm", **RECURRENT, memory_bptt=bptt, mem_len=6)).train()
        outputs.append(stream(model, tokens, 10))
    torch.testing.assert_close(*outputs)


def test_a_variant_that_reads_memory_alone_must_say_that_it_is_a_bottleneck():
    model = build("mem_bottleneck_transformer_lm", **INTERSPERSED)
    model.decoder.bottleneck = False
    with pytest.raises(SettingError, match="register it with bottleneck=True"):
        model(text(1, 8))


# fairseq's side


def test_probabilities_are_over_the_dictionary_and_agree_with_the_losses():
    for cutoffs, value in ((None, 1), ("20,40", 1), ("20,40", 2)):
        model = shake(build("transformer_xl", adaptive_softmax_cutoff=cutoffs, adaptive_div_value=value))
        tokens = text(2, 11)
        features = model(tokens[:, :-1])
        logs = model.get_normalized_probs(features, log_probs=True)
        assert logs.shape == (2, 10, len(DICTIONARY))
        torch.testing.assert_close(logs.exp().sum(-1), torch.ones(2, 10))
        assert logs[..., :EOS].isneginf().all()
        expected = -logs.gather(-1, tokens[:, 1:].unsqueeze(-1)).squeeze(-1)
        torch.testing.assert_close(model.nll(features[0], tokens[:, 1:]), expected)


FILLED = {
    "recurrent": ("mem_transformer_lm", RECURRENT | {"mem_len": 5, "adaptive_softmax_cutoff": "20,41"}, 10),
    "one_token": ("transformer_xl", {"mem_len": 5}, 1),
    "one_memory_row": ("mem_bottleneck_transformer_lm", INTERSPERSED | {"memory_tokens": 1}, 10),
    "chunks_of_one": ("mem_bottleneck_transformer_lm", INTERSPERSED | {"memory_every": 1}, 10),
}


@pytest.mark.parametrize(("name", "options", "length"), FILLED.values(), ids=list(FILLED))
def test_widths_are_filled_up_without_changing_anything(monkeypatch, name, options, length):
    """What is done on a GPU, done on the CPU."""
    from memtrans_fairseq.modules import aligned, causal, relative, vocabulary

    model = shake(build(name, **options))
    tokens, gradients, losses = text(2, 2 * length + 1), [], []
    for fill in (False, True):
        if fill:
            for room in (aligned, causal, relative, vocabulary):
                monkeypatch.setattr(room, "filling", lambda size, like: -size % 8)
        model.zero_grad()
        _, extra = model(tokens[:, :length])
        features, _ = model(tokens[:, length:-1], state=extra["state"])  # once more, with what a cache holds by now
        losses.append(model.nll(features, tokens[:, length + 1 :]))
        losses[-1].sum().backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*gradients)


def test_a_copy_is_a_model_of_its_own():
    model = shake(build("mem_ctrl_transformer_lm", **RECURRENT))
    twin = copy.deepcopy(model)
    tokens = text(1, 10)
    torch.testing.assert_close(twin(tokens)[0], model(tokens)[0], atol=0, rtol=0)


@pytest.mark.parametrize(
    "device", [pytest.param("cpu", marks=pytest.mark.slow), pytest.param("cuda", marks=pytest.mark.gpu)]
)
def test_compiled_layers_give_the_same_gradients(device):
    """Added up over segments; on a GPU, where a CUDA graph writes them to the same places each time."""
    gradients = []
    for compiled in (False, True):
        torch.manual_seed(0)
        model = shake(build("mem_transformer_lm", **RECURRENT, mem_len=10, compile_layers=compiled)).train().to(device)
        tokens, state = text(2, 61).to(device), None
        for start in range(0, 60, 10):
            features, extra = model(tokens[:, start : start + 10], state=state)
            model.nll(features, tokens[:, start + 1 : start + 11]).sum().backward()
            state = extra["state"]
        gradients.append([parameter.grad for parameter in model.parameters()])
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mem_bottleneck_transformer_lm", FRONT, "can write nothing"),
        ("mem_bottleneck_transformer_lm", RECURRENT | {"mem_len": 4}, "set --mem-len 0"),
        ("mem_ctrl_transformer_lm", {"memory_tokens": 0}, "at least 1 memory token"),
        ("mem_transformer_lm", {"memory_tokens": 0, "memory_placement": "recurrent"}, "without memory"),
        ("mem_transformer_lm", FRONT | {"memory_placement": "interspersed"}, "needs --memory-every"),
        ("mem_transformer_lm", FRONT | {"memory_every": 4}, "choose interspersed or recurrent"),
        ("mem_transformer_lm", FRONT | {"memory_bptt": 1}, "choose --memory-placement recurrent"),
        ("mem_transformer_lm", FRONT | {"attention_window": 4}, "for the bottleneck"),
        ("mem_transformer_lm", FRONT | {"mem_len": -1}, "--mem-len -1: expected 0 or more"),
        ("transformer_xl", {"decoder_attention_heads": 5}, "multiple of the 5 attention heads"),
        ("transformer_xl", {"adaptive_softmax_cutoff": "20,10"}, "rising numbers"),
        ("transformer_xl", {"adaptive_softmax_cutoff": "20,400"}, "below the 60 words"),
        ("transformer_xl", {"adaptive_softmax_cutoff": "20,x"}, "expected numbers"),
        ("transformer_xl", {"adaptive_softmax_cutoff": "20,40", "adaptive_div_value": 4}, "leaves no channels"),
        ("transformer_xl", {"adaptive_div_value": 0}, "expected 1 or more"),
        ("transformer_xl", {"decoder_attention_heads": 0}, "expected 1 or more"),
    ],
)
def test_settings_that_cannot_work_are_refused_in_one_line(name, options, message):
    with pytest.raises(SettingError, match=message) as refused:
        build(name, **options)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["transformer_xl", *(f"{variant}_transformer_lm" for variant in VARIANTS)])
@pytest.mark.parametrize("option", [{"decoder_layrs": 2}, {"memory_placement": "forward"}, {"mem_len": "many"}])
def test_misspelt_settings_are_refused_by_name(name, option):
    with pytest.raises(Exception, match=next(iter(option))):
        build(name, **option)


def test_a_context_that_cannot_work_is_refused():
    with pytest.raises(SettingError, match="trained without one"):
        build("transformer_xl").set_context(mem_len=640)
    with pytest.raises(SettingError, match="expected 0 or more"):
        build("transformer_xl", mem_len=4).set_context(mem_len=-3)
    with pytest.raises(SettingError, match="there is none"):
        build("transformer_xl", mem_len=4).set_context(mem_len=0, same_length=True)


def test_memory_in_front_is_seen_at_any_same_length():
    model = shake(build("mem_transformer_lm", **FRONT, mem_len=4))
    model.set_context(same_length=True)
    features, _ = model(text(1, 12))
    gradient = torch.autograd.grad(features[:, -1].sum(), model.decoder.memory.weight)[0]
    assert gradient.any(dim=1).all()


def test_half_precision_does_not_overflow_in_training():
    model = build("mem_transformer_lm", **FRONT).half().train()
    model.decoder.layers[-1].block.final_layer_norm.bias.data.fill_(1)  # rows then add up to more than half can hold
    features, _ = model(text(60, 150))
    assert features.isfinite().all()


def test_a_checkpoint_older_than_an_option_still_builds():
    options = Namespace(**SIZE, arch="transformer_xl_demo", mem_len=3)  # what a preset's checkpoint brings: no defaults
    model = models.ARCH_MODEL_REGISTRY["transformer_xl"].build_model(options, TASK)
    assert (model.mem_len, model.decoder.cfg.compile_layers) == (3, False)
