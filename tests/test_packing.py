"""Batches without padding: the same losses and gradients as padded ones, every sentence once, one shape for all."""

from argparse import Namespace
from contextlib import nullcontext
from enum import Enum
from typing import Any

from memtrans_fairseq.criterions.packed_cross_entropy import PackedCrossEntropy, PackedCrossEntropyConfig, _unwrapped
from memtrans_fairseq.models.config import nested
from memtrans_fairseq.packing import forward
from memtrans_fairseq.packing.attention import attention
from memtrans_fairseq.packing.batches import PackedPairs, even_batches, shape_of
from memtrans_fairseq.packing.blocks import block_attention, block_mask
from memtrans_fairseq.packing.spans import Spans
from memtrans_fairseq.tasks.packed_translation import PackedTranslationTask
from memtrans_fairseq.variants import VARIANTS, SettingError

import numpy as np
import pytest
import torch
import toy
from fairseq import models, utils
from fairseq.criterions.label_smoothed_cross_entropy import LabelSmoothedCrossEntropyCriterion
from fairseq.data import LanguagePairDataset
from fairseq.data.data_utils import numpy_seed
from fairseq.tasks.translation import TranslationConfig
from omegaconf import OmegaConf
from torch.nn.attention.flex_attention import create_block_mask

SMOOTHING = 0.1
DRAWS = 200  # of dropout
MODELS = ["transformer", *(f"{name}_transformer" for name in VARIANTS)]


def pairs(number: int = 40, seed: int = 0) -> LanguagePairDataset:
    lengths = lengths_of(number, 10, seed)
    source, target = (toy.sentences(list(side), seed + i) for i, side in enumerate(lengths))
    return LanguagePairDataset(source, lengths[0], toy.DICTIONARY, target, lengths[1], toy.DICTIONARY, shuffle=False)


def lengths_of(number: int, most: int, seed: int) -> np.ndarray:
    """2 x number: a target is about as long as its source."""
    rng = np.random.default_rng(seed)
    source = rng.integers(3, most, number)
    return np.stack([source, source + rng.integers(-1, 3, number)])


def packed(data: LanguagePairDataset, max_tokens: int = 64) -> tuple[PackedPairs, list[np.ndarray]]:
    dataset = PackedPairs(data)
    with numpy_seed(1):
        return dataset, dataset.batch_by_size(dataset.ordered_indices(), max_tokens=max_tokens)


def collated(dataset: PackedPairs, batch: np.ndarray) -> dict:
    return dataset.collater([dataset[index] for index in batch])


def padded_loss(model: torch.nn.Module, data: LanguagePairDataset, batch: np.ndarray) -> tuple[torch.Tensor, dict]:
    task = type("Task", (), {"target_dictionary": toy.DICTIONARY})
    criterion = LabelSmoothedCrossEntropyCriterion(task, sentence_avg=False, label_smoothing=SMOOTHING)
    sample = utils.apply_to_sample(
        lambda x: x.to(model.encoder.embed_tokens.weight.device), data.collater([data[index] for index in batch])
    )
    loss, _, log = criterion(model, sample)
    return loss, log


def packed_loss(model: torch.nn.Module, sample: dict) -> tuple[torch.Tensor, torch.Tensor]:
    forward.settle(model)
    return forward.loss_of(model, sample["packed"], SMOOTHING)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"encoder_normalize_before": True, "decoder_normalize_before": True},
        {"encoder_learned_pos": True, "decoder_learned_pos": True, "layernorm_embedding": True},
    ],
    ids=["post-norm", "pre-norm", "learned positions"],
)
@pytest.mark.parametrize("name", MODELS)
def test_loss_and_gradients_are_those_of_padded_batches(name, options):
    more = {} if name == "transformer" else {"memory_tokens": 3}
    check(toy.shake(toy.build(name, **options, **more).double()))


@pytest.mark.parametrize("reads", ["sequence", "memory"])
@pytest.mark.parametrize("name", MODELS[1:])
def test_what_the_decoder_reads(name, reads):
    check(toy.shake(toy.build(name, memory_tokens=2, decoder_reads=reads, memory_positions="prefix").double()))


def test_no_memory_and_tokens_shared_by_all_layers():
    check(toy.shake(toy.build("mem_transformer", memory_tokens=0).double()))
    check(toy.shake(toy.build("mem_ctrl_transformer", memory_tokens=2, share_memory_layers=True).double()))


def check(model: torch.nn.Module) -> None:
    data = pairs()
    dataset, batches = packed(data)
    assert len(batches) > 3
    for batch in (batches[0], batches[-1]):
        model.zero_grad()
        expected, log = padded_loss(model, data, batch)
        expected.backward()
        gradients = {key: value.grad for key, value in model.named_parameters() if value.grad is not None}
        model.zero_grad()
        sample = collated(dataset, batch)
        loss, plain = packed_loss(model, sample)
        loss.backward()
        assert sample["ntokens"] == log["ntokens"]
        assert sample["nsentences"] == log["nsentences"] == len(batch)
        torch.testing.assert_close(loss.float(), expected)  # fairseq takes logarithms in float32
        torch.testing.assert_close(plain.float(), log["nll_loss"])
        for key, parameter in model.named_parameters():
            if key in gradients:
                torch.testing.assert_close(
                    parameter.grad, gradients[key], rtol=1e-5, atol=1e-5, msg=lambda text, key=key: f"{key}: {text}"
                )


def test_every_sentence_is_in_one_batch_and_no_batch_is_too_large():
    data = pairs(300)
    dataset, batches = packed(data, max_tokens=100)
    assert sorted(np.concatenate(batches)) == list(range(300))
    for sizes in (data.src_sizes, data.tgt_sizes):
        sums = [sizes[batch].sum() for batch in batches]
        assert max(sums) <= 100
    heavier = max(data.src_sizes.sum(), data.tgt_sizes.sum())
    assert len(batches) <= 1.15 * heavier / 100


def test_batches_are_even_and_drawn_at_random():
    sizes = lengths_of(20_000, 60, seed=0)
    batches = even_batches(np.random.default_rng(1).permutation(20_000), *sizes, 8192)
    for side in sizes:
        sums = np.array([side[batch].sum() for batch in batches])
        assert sums.max() <= 8192
        assert sums.min() > 0.93 * sums.max()
    assert len({len(batch) for batch in batches}) > 1
    shape = shape_of(batches, *sizes)
    assert shape.source <= 8192 + shape.fillers + 128
    assert shape.sentences < 1.12 * np.mean([len(batch) for batch in batches])


def test_all_batches_have_one_shape_and_fillers_are_no_longer_than_sentences():
    dataset, batches = packed(pairs(200), max_tokens=90)
    shapes = set()
    for batch in batches:
        sample = collated(dataset, batch)["packed"]
        shapes.add(tuple(value.shape for side in (sample.source, sample.target) for value in (side[0], side[2][0])))
        for side in (sample.source, sample.target):
            lengths = side.spans.bounds.diff()
            assert lengths.sum() == len(side.words) == len(side.places)
            assert lengths.max() <= side.spans.longest
            assert (lengths[-dataset.shape.fillers :] > 0).all()
    assert len(shapes) == 1


@pytest.mark.parametrize("number", [2, 4, 8])
def test_parts_of_batches_are_even(number):
    sizes = lengths_of(20_000, 60, seed=0)
    batches = even_batches(np.random.default_rng(1).permutation(20_000), *sizes, 8192 * number)
    parts = [batch[part::number] for batch in batches for part in range(number)]
    for side in sizes:
        sums = np.array([side[part].sum() for part in parts])
        assert sums.mean() > 0.97 * sums.max()


def test_parts_of_batches_have_a_smaller_shape_and_the_same_sum():
    data = pairs(60)
    dataset, batches = packed(data, max_tokens=120)
    whole = dataset.shape
    model = toy.shake(toy.build("mem_transformer", memory_tokens=2).double())
    expected, _ = packed_loss(model, collated(dataset, batches[0]))
    dataset.share(3)
    assert dataset.shape.source <= whole.source
    assert dataset.shape.sentences < whole.sentences
    parts = [packed_loss(model, collated(dataset, batches[0][part::3]))[0] for part in range(3)]
    torch.testing.assert_close(sum(parts), expected)


def test_more_parts_than_sentences_leave_room_for_a_single_one():
    dataset, batches = packed(pairs(5), max_tokens=200)
    dataset.share(8)
    model = toy.shake(toy.build("mem_transformer", memory_tokens=2))
    for index in batches[0]:
        assert packed_loss(model, collated(dataset, [index]))[0].isfinite()


def test_the_order_changes_with_the_seed_alone():
    dataset = PackedPairs(pairs(50))
    orders = []
    for seed in (1, 1, 2):
        with numpy_seed(seed):
            orders.append(dataset.ordered_indices().tolist())
    assert orders[0] == orders[1] != orders[2]


@pytest.mark.parametrize(
    ("options", "word"),
    [({"attention_dropout": 0.1}, "attention-dropout"), ({"encoder_layerdrop": 0.5}, "encoder-layerdrop")],
)
def test_models_that_packed_batches_cannot_train_are_refused(options, word):
    with pytest.raises(SettingError, match=word):
        forward.check(toy.build("mem_transformer", **options))
    forward.check(toy.build("mem_transformer"))


@pytest.mark.parametrize("layerdrop", [0, 0.5])
def test_a_training_that_cannot_be_packed_ends_before_it_loads_data(layerdrop):
    task = PackedTranslationTask(TranslationConfig(), toy.DICTIONARY, toy.DICTIONARY)
    options = {"_name": "transformer", **toy.STOCK_SIZE, "encoder_layerdrop": layerdrop}
    task.build_model(OmegaConf.create({"model": options}).model)
    criterion = PackedCrossEntropyConfig("packed_label_smoothed_cross_entropy", sentence_avg=False)
    with pytest.raises(SettingError, match="encoder-layerdrop") if layerdrop else nullcontext():
        task.build_criterion(OmegaConf.structured(criterion))
    assert task.packs


def test_sentences_of_one_word_leave_room_for_fillers():
    sizes = np.ones((2, 101), dtype=np.int64)
    batches = even_batches(np.arange(101), *sizes, 40)
    assert sorted(map(len, batches)) == [33, 34, 34]
    shape = shape_of(batches, *sizes)
    assert shape.source - 33 <= shape.fillers * shape.longest_source


def test_no_sentence_at_all_is_said():
    with pytest.raises(SettingError, match="no sentence pair is within --max-tokens 40"):
        even_batches(np.arange(0), *np.ones((2, 5), dtype=np.int64), 40)


def test_gradients_that_a_wrapper_gathers_by_itself_are_refused():
    wrapped = torch.nn.DataParallel(toy.build("mem_transformer"))
    with pytest.raises(SettingError, match="cannot train a DataParallel: set --ddp-backend legacy_ddp"):
        _unwrapped(wrapped)


def test_a_sentence_longer_than_a_batch_is_refused():
    with pytest.raises(SettingError, match="--max-tokens 5: the longest of 40 sentences has 11"):
        packed(pairs(), max_tokens=5)


@pytest.fixture
def blocks_alone(monkeypatch):
    """Attention by blocks, as on a GPU. On a CPU torch refuses its gradients, which its plain formula does have."""
    monkeypatch.setattr("torch.nn.attention.flex_attention._validate_device", lambda *_: None)
    monkeypatch.setattr("memtrans_fairseq.packing.attention.attention", block_attention)


@pytest.fixture
def compiles_anew():
    """Nothing compiled is left of other tests; torch would go on without compiling after eight models."""
    torch.compiler.reset()
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        yield


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("reads", ["all", "sequence", "memory"])
@pytest.mark.parametrize("name", MODELS)
def test_loss_and_gradients_by_blocks_are_those_of_padded_batches(name, reads, blocks_alone):
    more = {} if name == "transformer" else {"memory_tokens": 3, "decoder_reads": reads}
    check(toy.shake(toy.build(name, **more).double()))


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((name, {}) for name in MODELS[1:]),
        ("mem_transformer", {"decoder_reads": "memory"}),
        ("mem_transformer", {"decoder_reads": "sequence", "memory_positions": "prefix"}),
    ],
    ids=str,
)
def test_one_compiled_graph_serves_all_batches(name, options, blocks_alone, compiles_anew):
    dataset, batches = packed(pairs(100))
    model = toy.shake(toy.build(name, memory_tokens=2, **options).double())
    forward.settle(model)
    compiled = torch.compile(forward.loss_of, backend="eager", fullgraph=True)
    with torch.compiler.set_stance("default"):
        losses = [compiled(model, collated(dataset, batches[0])["packed"], SMOOTHING)[0]]
    with torch.compiler.set_stance("fail_on_recompile"):
        losses += [compiled(model, collated(dataset, batch)["packed"], SMOOTHING)[0] for batch in batches[1:4]]
    for loss, batch in zip(losses, batches, strict=False):
        torch.testing.assert_close(loss, packed_loss(model, collated(dataset, batch))[0])


@pytest.mark.parametrize("of_command_line", [False, True])
def test_what_is_compiled_compares_plain_words(of_command_line):
    """torch 2.11 compiles an enumeration's `==` as false, which torch 2.13 does not: it would not show the mistake."""
    options = OmegaConf.structured(models.MODEL_DATACLASS_REGISTRY["mem_transformer"])
    assert isinstance(options.decoder_reads, Enum)
    if of_command_line:
        options = Namespace(**OmegaConf.to_container(options, resolve=True, throw_on_missing=False))
    config = nested(options)
    assert (config.decoder_reads, config.memory_positions) == ("all", "none")
    assert type(config.decoder_reads) is type(config.memory_positions) is str


@pytest.mark.parametrize("causal", [False, True])
def test_blocks_are_those_that_torch_finds_by_looking_at_all_pairs(causal):
    rng = np.random.default_rng(0)
    queries, keys = (Spans.of(torch.from_numpy(rng.integers(1, 60, 40)), 60) for _ in range(2))
    keys = queries if causal else keys
    found = block_mask(queries, keys, causal)
    rows = queries.sentences.size(0), keys.sentences.size(0)
    expected = create_block_mask(found.mask_mod, None, None, *rows, device="cpu")
    assert 5 < found.kv_num_blocks.sum() < found.kv_num_blocks.numel() ** 2 / 2
    assert torch.equal(found.to_dense(), expected.to_dense())
    transposed = ordered_blocks(found.q_num_blocks, found.q_indices)
    assert torch.equal(transposed, expected.to_dense()[0, 0].T.bool())


def ordered_blocks(counts: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """Which blocks are listed, as a matrix."""
    dense = torch.zeros(indices.size(2), int(indices.max()) + 1, dtype=torch.bool)
    for row, count in enumerate(counts[0, 0]):
        dense[row, indices[0, 0, row, :count].long()] = True
    return dense


@pytest.mark.gpu
@pytest.mark.parametrize("kernel", [attention, torch.compile(block_attention)], ids=["flash", "blocks"])
@pytest.mark.parametrize("causal", [False, True])
def test_a_kernel_of_the_gpu_sees_what_padded_attention_sees(causal, kernel):
    """Outputs and gradients in half precision, against padded attention in float32."""
    lengths = torch.tensor([5, 1, 0, 17, 130, 3])
    spans = Spans.of(lengths, 130)
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randn(int(lengths.sum()), 4, 16, generator=generator) for _ in range(4)]
    found = []
    for device, dtype, function in (("cpu", torch.float32, attention), ("cuda", torch.float16, kernel)):
        *inputs, upstream = (x.detach().to(device, dtype) for x in rows)
        inputs = [x.requires_grad_() for x in inputs]
        there = Spans.of(lengths.to(device), spans.longest)
        out = function(*inputs, there, there, causal)
        out.backward(upstream)
        found.append([x.float().cpu() for x in (out.detach(), *(x.grad for x in inputs))])
    for slow, fast in zip(*found, strict=True):
        torch.testing.assert_close(fast, slow, atol=2e-2, rtol=2e-2)


def on_gpu(name: str, **options: Any) -> torch.nn.Module:
    """A model that is wide enough for the kernels of a GPU."""
    wide = {"encoder_embed_dim": 64, "decoder_embed_dim": 64, "decoder_output_dim": 64, "dropout": 0.0}
    return toy.build(name, **wide, **options).cuda().train()


@pytest.mark.gpu
@pytest.mark.parametrize("cuda_graphs", [False, True])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("transformer", {}),
        *((name, {"memory_tokens": 3}) for name in MODELS[1:]),
        *(("mem_transformer", {"memory_tokens": 3, "decoder_reads": reads}) for reads in ("sequence", "memory")),
        ("mem_transformer", {"memory_tokens": 3, "memory_positions": "prefix"}),
    ],
    ids=str,
)
def test_a_compiled_model_learns_what_a_padded_one_learns(name, options, cuda_graphs, compiles_anew):
    """Loss and gradients in half precision against fairseq's in float32, of three batches: a graph is recorded by then.

    Half precision moves these gradients by less than 2 %, a decoder that reads other rows, or memory without its
    positions, by more than 28 %.
    """
    model, data = on_gpu(name, **options), pairs(100)
    dataset, batches = packed(data)
    task = type("Task", (), {"target_dictionary": toy.DICTIONARY})
    criterion = PackedCrossEntropy(task, False, SMOOTHING, 0, False, compile=True, cuda_graphs=cuda_graphs)

    def learned(loss: torch.Tensor) -> tuple[float, dict[str, torch.Tensor]]:
        model.zero_grad()
        loss.backward()
        return loss.item(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    for batch in batches[:3]:
        expected, gradients = learned(padded_loss(model, data, batch)[0])
        with torch.autocast("cuda", torch.float16):
            loss, *_ = criterion(model, collated(dataset, batch))
        loss, of_compiled = learned(loss)
        assert loss == pytest.approx(expected, rel=1e-3)
        assert gradients.keys() == of_compiled.keys()
        of_memory = {name for name in gradients if "memory" in name}
        for names in (gradients.keys(), of_memory):
            error = sum((of_compiled[name] - gradients[name]).square().sum() for name in names)
            assert error <= 0.05**2 * sum(gradients[name].square().sum() for name in names)


@pytest.mark.gpu
@pytest.mark.parametrize("name", MODELS)
def test_gradients_of_several_batches_add_up_where_one_graph_makes_them(name, compiles_anew):
    """A CUDA graph writes its gradients, and its losses, to the same places each time."""
    more = {} if name == "transformer" else {"memory_tokens": 3}
    model = toy.shake(on_gpu(name, **more))
    task = type("Task", (), {"target_dictionary": toy.DICTIONARY})
    criterion = PackedCrossEntropy(task, False, SMOOTHING, 0, False, compile=True, cuda_graphs=True)
    dataset, batches = packed(pairs(300))

    def learned(batches: list[np.ndarray]) -> list[torch.Tensor]:
        model.zero_grad()
        losses = []
        for batch in batches:
            loss, _, log = criterion(model, collated(dataset, batch))
            loss.backward()
            losses.append(log["loss"])
        return [sum(losses), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]

    with torch.autocast("cuda", torch.bfloat16):
        for batch in batches[:3]:  # before the graph is recorded
            learned([batch])
        apart = [learned([batch]) for batch in batches[:4]]
        together = learned(batches[:4])
    for whole, *parts in zip(together, *apart, strict=True):
        torch.testing.assert_close(whole, sum(parts), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "device", [pytest.param("cpu", marks=pytest.mark.slow), pytest.param("cuda", marks=pytest.mark.gpu)]
)
def test_dropout_of_a_compiled_model_is_as_strong_and_as_random(device, compiles_anew):
    """Means of many draws; seeded before each as fairseq's trainer does, which a CUDA graph must heed."""
    wide = {"encoder_embed_dim": 64, "decoder_embed_dim": 64, "decoder_output_dim": 64, "dropout": 0.5}
    model = toy.shake(toy.build("mem_transformer", memory_tokens=3, **wide)).to(device).train()
    forward.settle(model)
    dataset, batches = packed(pairs(100))
    sample = collated(dataset, batches[0])["packed"].to(torch.device(device))
    drawn = []
    for function in (forward.loss_of, forward.compiled_loss(cuda_graphs=True)):
        losses = []
        for seed in range(DRAWS):
            torch.manual_seed(seed)
            with torch.no_grad(), torch.autocast("cuda", torch.bfloat16, enabled=device == "cuda"):
                losses.append(function(model, sample, SMOOTHING)[0].item())
        drawn.append(np.array(losses))
    plain, fast = drawn
    error = np.sqrt((plain.var() + fast.var()) / DRAWS)
    assert abs(plain.mean() - fast.mean()) < 4 * error
    assert fast.std() > 0.8 * plain.std()
    model.eval()
    assert plain.mean() - forward.loss_of(model, sample, SMOOTHING)[0].item() > 8 * error  # it would be seen
