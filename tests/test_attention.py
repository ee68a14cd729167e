"""Captured attention against the same recomputed by hand in float64, for every variant, and what capturing leaves."""

from collections.abc import Iterator
from typing import Any

from memtrans_fairseq.analysis.attention import AttentionMap, Map, Side, by_sentence, captured, standing_in
from memtrans_fairseq.analysis.blocks import entropies, masses, uniform
from memtrans_fairseq.variants import VARIANTS, SettingError

import attention_by_hand as hand
import lm_toy
import numpy as np
import pytest
import torch
from test_language_model import CASES as LANGUAGE_MODELS
from toy import batch, build, sentences, shake

M = 4
PRE_LN = {"encoder_normalize_before": True, "decoder_normalize_before": True}
CASES: dict[str, tuple[str, dict[str, Any]]] = {"transformer": ("transformer", {})}
for _name in VARIANTS:
    CASES |= {
        _name: (f"{_name}_transformer", {"memory_tokens": M}),
        f"{_name}-pre_ln": (f"{_name}_transformer", {"memory_tokens": M, **PRE_LN}),
    }
CASES |= {
    "mem_ctrl-shared": ("mem_ctrl_transformer", {"memory_tokens": M, "share_memory_layers": True}),
    "mem-reads_memory": ("mem_transformer", {"memory_tokens": M, "decoder_reads": "memory"}),
    "mem-reads_sequence": ("mem_transformer", {"memory_tokens": M, "decoder_reads": "sequence"}),
    "mem-no_memory": ("mem_transformer", {"memory_tokens": 0}),
}
SOURCE, TARGET = sentences([5, 9, 7]), sentences([4, 6, 3], seed=1)
EXACT = {"rtol": 0, "atol": 1e-12}
SINGLE = {"rtol": 0, "atol": 1e-6}  # fairseq's cross-attention takes its softmax in float32, whatever the model is in


def maps_of(model: torch.nn.Module) -> dict[tuple[str, int], list[Map]]:
    with captured(model) as maps:
        model(batch(SOURCE), None, batch(TARGET, left=False))
    return {(found.part, found.layer): list(by_sentence(found)) for found in maps}


@pytest.mark.parametrize(("name", "options"), CASES.values(), ids=list(CASES))
@torch.no_grad()
def test_maps_are_those_recomputed_by_hand(name, options):
    """Sentences of three lengths in one batch, padded left and right: each map is that of the sentence alone."""
    model, pre = shake(build(name, **options)).double(), "encoder_normalize_before" in options
    memory = options.get("memory_tokens", 0)
    found = maps_of(model)
    assert list(found) == [*(("encoder", n) for n in range(3)), *(("cross", n) for n in range(2))]
    for i, (source, target) in enumerate(zip(SOURCE, TARGET, strict=True)):
        maps, rows = hand.encoder(model, source, memory, pre)
        for layer, weights in enumerate(maps):
            np.testing.assert_allclose(found["encoder", layer][i].weights, weights.numpy(), **EXACT)
        reads = options.get("decoder_reads", "all")
        kept = rows[:memory] if reads == "memory" else rows[memory if reads == "sequence" else 0 :]
        for layer, weights in enumerate(hand.cross(model, target, kept, pre)):
            attention = found["cross", layer][i]
            np.testing.assert_allclose(attention.weights, weights.numpy(), **SINGLE)
            assert attention.across.memory.sum() == (0 if reads == "sequence" else memory)
        assert found["encoder", 0][i].down.memory.tolist() == [True] * memory + [False] * len(source)


@pytest.mark.parametrize("name", ["mem_transformer", "mem_ctrl_transformer", "mem_bottleneck_transformer"])
def test_capturing_changes_nothing_and_leaves_nothing(name):
    model = shake(build(name, memory_tokens=M))
    plain = model(batch(SOURCE), None, batch(TARGET, left=False))[0]
    with captured(model):
        watched = model(batch(SOURCE), None, batch(TARGET, left=False))[0]
        assert any(module._forward_hooks for module in model.modules())
    assert torch.equal(plain, watched)
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
    assert not any(getattr(module, kind) for module in model.modules() for kind in hooks)


def test_hooks_are_gone_after_a_failure():
    model = build("mem_transformer", memory_tokens=M)
    with pytest.raises(IndexError), captured(model):
        model(torch.full((1, 3), 999), None, batch(TARGET[:1]))
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_model_in_training_is_refused():
    with pytest.raises(SettingError, match="eval mode"), captured(build("mem_transformer", memory_tokens=M).train()):
        pass


# --- language models


def maps_of_stream(model: torch.nn.Module, text: torch.Tensor) -> Iterator[AttentionMap]:
    """Of two rows of text, in segments of nine words."""
    state = None
    with captured(model) as maps:
        for segment in text.split(9, dim=1):
            state = model(segment, state=state)[1]["state"]
    return iter(maps)


def seen_rows(token: list[int], group: list[int], cached: int, case: dict[str, Any]) -> torch.Tensor:
    """By the drawings in modules/causal.py: which columns, cache and segment, each row of the segment sees."""
    rows, interspersed = len(token), case.get("memory_placement") == "interspersed"
    seen = torch.zeros(rows, cached + rows, dtype=torch.bool)
    for i in range(rows):
        for j in range(rows):
            seen[i, cached + j] = j <= i or (group[i] >= 0 and group[i] == group[j])
        seen[i, :cached] = token[i] < 0 or interspersed
    return seen


def rows_of(tokens: int, case: dict[str, Any]) -> tuple[list[int], list[int]]:
    """For each row of a segment, which memory token it is and of which group; -1 for a word."""
    m, every = case.get("memory_tokens", 0), case.get("memory_every") or tokens
    token: list[int] = []
    group: list[int] = []
    for number, start in enumerate(range(0, tokens, every)):
        words = min(every, tokens - start)
        token += [*range(m), *[-1] * words]
        group += [*[number] * m, *[-1] * words]
    if case.get("memory_placement") == "recurrent":
        number = max(group) + 1
        token += range(m)
        group += [number] * m
    return token, group


PRE = {"decoder_normalize_before": True}
DENSE = {key: case for key, case in LANGUAGE_MODELS.items() if "bottleneck" not in key}
DENSE |= {  # pre-LN where states are kept from segment to segment, too
    f"{key}-pre_ln": (DENSE[key][0], DENSE[key][1] | PRE)
    for key in ("transformer_xl-cache", "mem-interspersed-cache", "mem_ctrl-recurrent-cache")
}


@pytest.mark.parametrize(("name", "options"), DENSE.values(), ids=list(DENSE))
@torch.no_grad()
def test_maps_of_language_models_are_those_recomputed_by_hand(name, options):
    """Three segments, the last a short one, with everything that is cached and carried from one to the next."""
    model = lm_toy.shake(lm_toy.build(name, **options))
    decoder, text, m = model.decoder, lm_toy.text(2, 21), options.get("memory_tokens", 0)
    mem_len, recurrent = options.get("mem_len", 0), options.get("memory_placement") == "recurrent"
    pre = options.get("decoder_normalize_before", False)
    maps = maps_of_stream(model, text)
    caches: list[list[torch.Tensor]] = [[torch.zeros(0, 12, dtype=torch.double)] * 3 for _ in text]
    carried: list[torch.Tensor | None] = [None for _ in text]
    cached_tokens: list[int] = []
    for segment in text.split(9, dim=1):
        token, group = rows_of(segment.size(1), options)
        is_word = torch.tensor(token) < 0
        columns = [*cached_tokens, *token]
        by_segment = [list(by_sentence(next(maps))) for _ in decoder.layers]
        for b, words in enumerate(segment):
            x = torch.zeros(len(token), 12, dtype=torch.double)
            x[is_word] = decoder.vocabulary.embed((words - decoder.first_word).unsqueeze(0))[0]
            if m:
                memory = decoder.memory.weight if carried[b] is None else carried[b]
                x[~is_word] = memory[torch.tensor(token)[~is_word]]
            for number, layer in enumerate(decoder.layers):
                cache = caches[b][number]
                attention = by_segment[number][b]
                assert attention.across.token.tolist() == columns
                first = (
                    [True] * m + [False] * (len(token) - m)
                    if recurrent and carried[b] is not None
                    else [False] * len(token)
                )
                assert attention.across.earlier.tolist() == [True] * len(cache) + first
                seen = seen_rows(token, group, len(cache), options)
                keys = torch.cat([cache, x])
                distance = torch.arange(len(x)).unsqueeze(1) - torch.arange(-len(cache), len(x)).double()
                new, weights = torch.zeros_like(x), torch.zeros(3, len(x), len(keys), dtype=torch.double)
                blocks = (
                    [(layer.block, slice(None))]
                    if hasattr(layer, "block")
                    else [(layer.memory_block, ~is_word), (layer.sequence_block, is_word)]
                )
                for part, rows in blocks:
                    weights[:, rows], new[rows] = hand.relative_block(
                        part, decoder.positions, x[rows], keys, distance[rows], seen[rows], pre
                    )
                np.testing.assert_allclose(attention.weights, weights.numpy(), **EXACT)
                assert np.array_equal(attention.visible, seen.numpy())
                kept = x if options.get("memory_placement") == "interspersed" else x[is_word]
                caches[b][number] = torch.cat([cache, kept])[-mem_len:] if mem_len else cache
                x = new
            carried[b] = x[-m:] if recurrent else None
        kept_tokens = token if options.get("memory_placement") == "interspersed" else [-1] * int(is_word.sum())
        cached_tokens = [*cached_tokens, *kept_tokens][-mem_len:] if mem_len else []


BOTTLENECKS = {key: case for key, case in LANGUAGE_MODELS.items() if "bottleneck" in key}


@pytest.mark.parametrize(("name", "options"), BOTTLENECKS.values(), ids=list(BOTTLENECKS))
@torch.no_grad()
def test_maps_of_causal_bottlenecks_are_those_recomputed_by_hand(name, options):
    model = lm_toy.shake(lm_toy.build(name, **options))
    decoder, m, pre = model.decoder, options["memory_tokens"], options.get("decoder_normalize_before", False)
    segment = lm_toy.text(2, 10)
    with captured(model) as maps:
        model(segment)
    every, window = options.get("memory_every") or 10, options.get("attention_window") or 99
    token, group = rows_of(10, options)
    unit, is_word = [0] * len(token), torch.tensor(token) < 0
    for i in range(len(token)):  # a group and the words after it are one unit
        unit[i] = group[i] if group[i] >= 0 else unit[i - 1]
    for b, words in enumerate(segment):
        x = torch.zeros(len(token), 12, dtype=torch.double)
        x[is_word] = decoder.vocabulary.embed((words - decoder.first_word).unsqueeze(0))[0]
        x[~is_word] = decoder.memory.weight[torch.tensor(token)[~is_word]]
        place = torch.tensor(places_in(unit, every, m))
        distance = (place.unsqueeze(1) - place).double()
        for number, layer in enumerate(decoder.layers):
            attention = list(by_sentence(maps[number]))[b]
            write = torch.tensor(
                [
                    [unit[j] == unit[i] - 1 or (group[j] == group[i] >= 0) for j in range(len(token))]
                    for i in range(len(token))
                ]
            )
            read = torch.tensor(
                [
                    [unit[j] == unit[i] and (group[j] >= 0 or 0 <= i - j < window) for j in range(len(token))]
                    for i in range(len(token))
                ]
            )
            weights, new = torch.zeros(3, len(x), len(x), dtype=torch.double), x.clone()
            weights[:, ~is_word], new[~is_word] = hand.relative_block(
                layer.memory_block, decoder.positions, x[~is_word], x, distance[~is_word], write[~is_word], pre
            )
            keys = torch.where(is_word.unsqueeze(1), x, new)  # words as they were, memory as just written
            weights[:, is_word], new[is_word] = hand.relative_block(
                layer.sequence_block, decoder.positions, x[is_word], keys, distance[is_word], read[is_word], pre
            )
            np.testing.assert_allclose(attention.weights, weights.numpy(), **EXACT)
            assert attention.across.token.tolist() == token
            x = new


def places_in(unit: list[int], every: int, m: int) -> list[int]:
    """The place of each row in a stream whose chunks are all whole: the last one may lack words."""
    return [number * (m + every) + sum(u == number for u in unit[:i]) for i, number in enumerate(unit)]


@pytest.mark.parametrize(("name", "options"), LANGUAGE_MODELS.values(), ids=list(LANGUAGE_MODELS))
def test_rows_of_language_models_sum_to_one_and_padding_is_left_out(name, options):
    model = lm_toy.shake(lm_toy.build(name, **options))
    words = lm_toy.text(2, 10)
    words[1, 7:] = lm_toy.PAD
    with captured(model) as maps:
        model(words)
    for found in maps:
        whole, short = by_sentence(found)
        np.testing.assert_allclose(whole.weights.sum(-1), 1)
        assert (~whole.down.memory).sum() == 10
        assert (~short.down.memory).sum() == 7


def test_a_cache_that_holds_memory_is_watched_from_the_start():
    model = lm_toy.build("mem_transformer_lm", **LANGUAGE_MODELS["mem-interspersed-cache"][1])
    state = model(lm_toy.text(1, 9))[1]["state"]
    with pytest.raises(SettingError, match="from the start of a text on"), captured(model):
        model(lm_toy.text(1, 9), state=state)


@pytest.mark.parametrize(
    "case", ["mem_ctrl-interspersed-cache", "mem-recurrent-cache", "mem_bottleneck-recurrent-chunks"]
)
def test_empty_rows_that_a_gpu_wants_are_in_no_map(monkeypatch, case):
    """What is done on a GPU, done on the CPU."""
    from memtrans_fairseq.modules import aligned, causal, relative, vocabulary

    name, options = LANGUAGE_MODELS[case]
    model, text = lm_toy.shake(lm_toy.build(name, **options)), lm_toy.text(2, 21)
    plain = list(maps_of_stream(model, text))
    for room in (aligned, causal, relative, vocabulary):
        monkeypatch.setattr(room, "filling", lambda size, like: -size % 8)
    for one, other in zip(maps_of_stream(model, text), plain, strict=True):
        torch.testing.assert_close(one.weights, other.weights)
        assert torch.equal(one.visible, other.visible)


def test_fairseqs_own_language_model_is_refused():
    class Stock(torch.nn.Module):
        decoder = None

    with pytest.raises(SettingError, match="take transformer_xl"), captured(Stock().eval()):
        pass


# --- masses


def test_masses_of_uniform_attention_are_shares_of_columns():
    model = shake(build("mem_transformer", memory_tokens=M)).double()
    attention = maps_of(model)["encoder", 0][1]  # nine words
    found = masses(uniform(attention), attention)
    share = pytest.approx(M / (M + 9))
    assert (found["mass.process"], found["mass.read"]) == (share, share)
    assert found["mass.write"] == found["mass.normal"] == pytest.approx(9 / (M + 9))
    assert entropies(uniform(attention), attention) == {
        "entropy.memory": pytest.approx(np.log(M + 9)),
        "entropy.sequence": pytest.approx(np.log(M + 9)),
    }


@pytest.mark.parametrize(("name", "options"), LANGUAGE_MODELS.values(), ids=list(LANGUAGE_MODELS))
def test_masses_of_each_kind_of_row_sum_to_one(name, options):
    model = lm_toy.shake(lm_toy.build(name, **options))
    blocks: set[str] = set()
    for found in (one for attention in maps_of_stream(model, lm_toy.text(2, 18)) for one in by_sentence(attention)):
        mass = masses(found.weights, found)
        blocks |= mass.keys()
        rows = {"process", "write", "write_cached"}, {"read", "normal", "cached"}
        for kind in rows if options.get("memory_tokens") else rows[1:]:
            np.testing.assert_allclose(sum(v for k, v in mass.items() if k.partition(".")[2] in kind), 1)
    assert ("mass.cached" in blocks) == bool(options.get("mem_len"))
    assert ("mass.carried" in blocks) == (
        options.get("memory_placement") == "recurrent" or ("mem_len" in options and "memory_every" in options)
    )


def test_masses_and_entropy_by_hand():
    axis_memory = np.array([True, False, False])
    weights = np.array([[[0.5, 0.25, 0.25], [0.2, 0.8, 0.0], [0.4, 0.3, 0.3]]])
    attention = _map(weights, axis_memory)
    assert {k: v.item() for k, v in masses(weights, attention).items()} == pytest.approx(
        {"mass.process": 0.5, "mass.write": 0.5, "mass.read": 0.3, "mass.normal": 0.7}
    )
    found = entropies(weights, attention)
    assert found["entropy.memory"].item() == pytest.approx(1.5 * np.log(2))
    by_row = [-sum(w * np.log(w) for w in row if w) for row in weights[0, 1:]]
    assert found["entropy.sequence"].item() == pytest.approx(np.mean(by_row))


def test_first_tokens_stand_in_for_memory():
    attention = maps_of(shake(build("transformer")))["encoder", 0]
    found = standing_in(attention[1], 4)
    assert found is not None
    assert found.down.memory.tolist() == found.across.memory.tolist() == [True] * 4 + [False] * 5
    assert standing_in(attention[0], 4) is None, "one word would be left of five"


def _map(weights: np.ndarray, memory: np.ndarray) -> Map:
    side = Side(memory, np.zeros_like(memory), np.where(memory, 0, -1))
    return Map("encoder", 0, weights, np.ones(weights.shape[1:], bool), side, side)
