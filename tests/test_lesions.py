"""Lesions of memory against models that are built that way, or whose weights say what must not matter any more."""

from memtrans_fairseq.analysis.lesions import KINDS, Lesion, gathering_means, lesioned, lesions, with_more
from memtrans_fairseq.variants import VARIANTS, SettingError

import lm_toy
import pytest
import torch
from test_contract import translate
from test_language_model import CASES as LANGUAGE_MODELS
from toy import batch, build, sentences, shake

M = 4
SOURCE, TARGET = sentences([5, 9, 7]), sentences([4, 6, 3], seed=1)
TRANSLATION = {f"{name}-{norm}": (name, norm == "pre_ln") for name in VARIANTS for norm in ("post_ln", "pre_ln")}
WITH_MEMORY = {key: case for key, case in LANGUAGE_MODELS.items() if "memory_tokens" in case[1]}
every_variant = pytest.mark.parametrize(("variant", "pre_ln"), TRANSLATION.values(), ids=list(TRANSLATION))
every_language_model = pytest.mark.parametrize(("name", "options"), WITH_MEMORY.values(), ids=list(WITH_MEMORY))
NOTHING = Lesion("first", "all", tuple(range(1, M + 1)))


def translator(variant: str, pre_ln: bool = False, memory_tokens: int = M, **options) -> torch.nn.Module:
    norms = dict.fromkeys(("encoder_normalize_before", "decoder_normalize_before"), pre_ln)
    return shake(build(f"{variant}_transformer", memory_tokens=memory_tokens, **norms, **options)).double()


def scores(model: torch.nn.Module) -> torch.Tensor:
    return model(batch(SOURCE), None, batch(TARGET, left=False))[0]


def memory_rows(model: torch.nn.Module) -> list[torch.Tensor]:
    """Memory before the first layer and after each: M x B x C."""
    return [state[:M] for state in model.encoder(batch(SOURCE), return_all_hiddens=True)["encoder_states"]]


# --- nothing removed is nothing changed


@every_variant
def test_removing_no_token_changes_no_bit(variant, pre_ln):
    model = translator(variant, pre_ln)
    intact, translations = scores(model), translate([model], SOURCE, 2)
    with lesioned(model, NOTHING):
        assert torch.equal(scores(model), intact)
        assert translate([model], SOURCE, 2) == translations


@every_language_model
def test_removing_no_token_changes_no_bit_of_a_language_model(name, options):
    model, text = lm_toy.shake(lm_toy.build(name, **options)), lm_toy.text(2, 20)
    intact = lm_toy.stream(model, text, 9)
    with lesioned(model, Lesion("first", "all", (1, 2, 3))):
        assert torch.equal(lm_toy.stream(model, text, 9), intact)


@pytest.mark.parametrize("lesion", lesions(M, 3, "all"), ids=lambda lesion: lesion.name)
def test_afterwards_the_model_is_as_it_was(lesion):
    model = translator("mem_ctrl")
    intact, weights = scores(model), {k: v.clone() for k, v in model.state_dict().items()}
    with gathering_means(model) as means:
        scores(model)
    with pytest.raises(KeyError), lesioned(model, lesion, means):  # noqa: PT012
        assert not torch.equal(scores(model), intact)
        raise KeyError
    assert torch.equal(scores(model), intact)
    # fairseq never sets the `_float_tensor` of its positions, which may be NaN
    torch.testing.assert_close(dict(model.state_dict()), weights, rtol=0, atol=0, equal_nan=True)
    hooks = ("_forward_hooks", "_forward_pre_hooks")
    assert not any(getattr(module, kind) for module in model.modules() for kind in hooks)


# --- removed tokens


@pytest.mark.parametrize("kept", [(1,), (2, 4), (1, 2, 3)])
@every_variant
def test_removed_tokens_are_as_if_they_had_never_been(variant, pre_ln, kept):
    """Against a model that has the other tokens alone; the source is padded, and the decoder sees memory too."""
    model, smaller = translator(variant, pre_ln), translator(variant, pre_ln, memory_tokens=len(kept))
    weights = model.state_dict()
    weights["encoder.memory.weight"] = weights["encoder.memory.weight"][[token - 1 for token in kept]]
    smaller.load_state_dict(weights)
    with lesioned(model, Lesion("first", "", kept)):
        # fairseq's cross-attention takes its softmax in float32
        torch.testing.assert_close(scores(model), scores(smaller), rtol=0, atol=1e-5)
        assert translate([model], SOURCE, 2) == translate([smaller], SOURCE, 2)


def test_without_any_token_mem_transformer_is_the_transformer():
    model, plain = translator("mem"), translator("mem", memory_tokens=0)
    weights = model.state_dict()
    del weights["encoder.memory.weight"]
    plain.load_state_dict(weights)
    with lesioned(model, Lesion("first", "", ())):
        torch.testing.assert_close(scores(model), scores(plain), rtol=0, atol=1e-5)


def test_a_bottleneck_needs_a_token():
    model = translator("mem_bottleneck")
    with pytest.raises(SettingError, match="nothing to see"), lesioned(model, Lesion("first", "", ())):
        scores(model)


@every_language_model
def test_a_removed_token_does_not_matter_to_a_language_model(name, options):
    """Its vector may be anything, in every segment, cached and carried; that of one that is kept may not."""
    model, text = lm_toy.shake(lm_toy.build(name, **options)), lm_toy.text(2, 20)
    intact = lm_toy.stream(model, text, 9)
    with lesioned(model, Lesion("single", "", (1, 3))):
        without = lm_toy.stream(model, text, 9)
        model.decoder.memory.weight.data[1] += 5.0
        assert torch.equal(lm_toy.stream(model, text, 9), without)
        model.decoder.memory.weight.data[2] += 5.0
        assert not torch.equal(lm_toy.stream(model, text, 9), without)
    assert not torch.equal(intact, without)


def test_memory_in_front_that_is_removed_is_as_if_it_had_never_been():
    """Where no cache stands before it, from which it would keep the words at a distance."""
    options = LANGUAGE_MODELS["mem-front"][1]
    model, text = lm_toy.shake(lm_toy.build("mem_transformer_lm", **options)), lm_toy.text(2, 20)
    plain = lm_toy.build("mem_transformer_lm", **options | {"memory_tokens": 0})
    weights = model.state_dict()
    del weights["decoder.memory.weight"]
    plain.load_state_dict(weights)
    with lesioned(model, Lesion("first", "", ())):
        torch.testing.assert_close(lm_toy.stream(model, text, 9), lm_toy.stream(plain, text, 9), rtol=0, atol=1e-12)


# --- a blind decoder


@pytest.mark.parametrize(("blind_to", "reads"), [("memory", "sequence"), ("sequence", "memory")])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_blind_decoder_is_one_that_reads_the_rest(variant, blind_to, reads):
    model, other = translator(variant), translator(variant, decoder_reads=reads)
    other.load_state_dict(model.state_dict())
    with lesioned(model, Lesion("blind", "", blind_to=blind_to)):
        torch.testing.assert_close(scores(model), scores(other), rtol=0, atol=1e-5)
        assert translate([model], SOURCE, 2) == translate([other], SOURCE, 2)


# --- memory's values


@pytest.mark.parametrize("variant", VARIANTS)
def test_frozen_memory_has_its_mean_at_every_depth(variant):
    model = translator(variant)
    with gathering_means(model) as means:
        scores(model)
    expected = [rows.mean(dim=1, keepdim=True) for rows in memory_rows(model)]
    with lesioned(model, Lesion("frozen", ""), means):
        for frozen, mean in zip(memory_rows(model), expected, strict=True):
            torch.testing.assert_close(frozen, mean.expand_as(frozen))


@pytest.mark.parametrize("variant", VARIANTS)
def test_frozen_memory_knows_nothing_of_what_is_read(variant):
    model = translator(variant, decoder_reads="memory")
    with gathering_means(model) as means:
        scores(model)
    target, other = batch(TARGET[:1]), sentences([5], seed=9)
    intact = [model(batch(source), None, target)[0] for source in (SOURCE[:1], other)]
    assert not torch.equal(*intact)
    with lesioned(model, Lesion("frozen", ""), means):
        assert torch.equal(*(model(batch(source), None, target)[0] for source in (SOURCE[:1], other)))


def test_what_is_carried_frozen_tells_nothing_of_earlier_segments():
    model = lm_toy.shake(lm_toy.build("mem_transformer_lm", **LANGUAGE_MODELS["mem-recurrent"][1]))
    text = lm_toy.text(2, 27)
    with gathering_means(model) as means:
        lm_toy.stream(model, text, 9)
    changed = text.clone()
    changed[:, :9] = lm_toy.text(2, 9, seed=5)
    later = [lm_toy.stream(model, t, 9)[:, 9:] for t in (text, changed)]
    assert not torch.equal(*later)
    with lesioned(model, Lesion("frozen", ""), means):
        assert torch.equal(*(lm_toy.stream(model, t, 9)[:, 9:] for t in (text, changed)))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("layer", [1, 2, 3])
def test_zeroed_memory_is_zero_from_what_the_layer_takes_in_on(variant, layer):
    model = translator(variant)
    intact = memory_rows(model)
    with lesioned(model, Lesion("zeroed", "", layer=layer)):
        rows = memory_rows(model)
    for depth in range(1, 4):  # depth 0 is what fairseq gives the first layer, before the lesion
        assert torch.equal(rows[depth], intact[depth] if depth < layer - 1 else torch.zeros_like(rows[depth]))


def test_a_bottleneck_reads_the_zeros_of_its_own_layer():
    """Memory that is zero says nothing: a token then reaches no other."""
    model = translator("mem_bottleneck")
    source = batch(SOURCE[:1])
    changed = source.clone()
    changed[0, 2] = 4 if source[0, 2] != 4 else 5
    with lesioned(model, Lesion("zeroed", "", layer=1)):
        rows, others = (model.encoder(s)["encoder_out"][0][:, 0] for s in (source, changed))
    assert [i for i in range(len(rows)) if not torch.equal(rows[i], others[i])] == [M + 2]


# --- more tokens


@pytest.mark.parametrize("start", ["new", "copies"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_more_tokens_are_a_larger_model_with_these_vectors(variant, start):
    model, larger = translator(variant), translator(variant, memory_tokens=2 * M)
    weights = model.state_dict()
    weights["encoder.memory.weight"] = with_more(weights["encoder.memory.weight"], 2 * M, start, in_stream=False)
    larger.load_state_dict(weights)
    with lesioned(model, Lesion("more", "", tokens=2 * M, start=start)):
        assert torch.equal(scores(model), scores(larger))


def test_more_tokens_in_a_language_model():
    options = LANGUAGE_MODELS["mem-recurrent"][1]
    model, text = lm_toy.shake(lm_toy.build("mem_transformer_lm", **options)), lm_toy.text(2, 20)
    larger = lm_toy.build("mem_transformer_lm", **options | {"memory_tokens": 6})
    weights = model.state_dict()
    weights["decoder.memory.weight"] = with_more(weights["decoder.memory.weight"], 6, "copies", in_stream=True)
    larger.load_state_dict(weights)
    with lesioned(model, Lesion("more", "", tokens=6, start="copies")):
        assert torch.equal(lm_toy.stream(model, text, 9), lm_toy.stream(larger, text, 9))


def test_further_tokens_are_copies_in_turn_or_drawn_as_at_the_start():
    trained = torch.arange(6.0).view(2, 3)
    assert with_more(trained, 5, "copies", in_stream=False).tolist() == trained[[0, 1, 0, 1, 0]].tolist()
    assert with_more(trained, 1, "copies", in_stream=False).tolist() == trained[:1].tolist()
    for in_stream, scale in ((False, 0.05), (True, 1.0)):
        drawn = with_more(torch.zeros(2, 400), 52, "new", in_stream)
        assert torch.equal(drawn[:2], torch.zeros(2, 400))
        assert drawn[2:].std().item() == pytest.approx(scale, rel=0.05)
        assert torch.equal(drawn, with_more(torch.zeros(2, 400), 52, "new", in_stream))


# --- which there are


def test_the_lesions_of_a_model():
    found = lesions(10, 6, "all")
    count = {kind: sum(lesion.kind == kind for lesion in found) for kind in KINDS}
    assert count == {"first": 4, "random": 9, "single": 10, "frozen": 1, "zeroed": 6, "blind": 2, "more": 2}
    assert [lesion.kept for lesion in found if lesion.kind == "first"] == [
        (),
        (1, 2),
        (1, 2, 3, 4, 5),
        (1, 2, 3, 4, 5, 6, 7),
    ]
    assert len({lesion.name for lesion in found}) == len(found)
    kept = [lesion.kept for lesion in found if lesion.kind in ("first", "random", "single")]
    assert len(set(kept)) == len(kept), "no choice of tokens twice"
    few = [lesion.kept for lesion in lesions(3, 2, None, ("random",))]
    assert few == [*dict.fromkeys(few)]
    assert {len(tokens) for tokens in few} == {1, 2}
    assert found == lesions(10, 6, "all"), "the same draws every time"
    assert not [lesion for lesion in lesions(10, 6, "memory") if lesion.kind == "blind"]
    assert {lesion.kind for lesion in lesions(3, 2, None, ("single",))} == {"single"}
