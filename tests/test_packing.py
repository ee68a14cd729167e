"""Batches without padding: the same losses and gradients as padded ones, every sentence once, one shape for all."""

from contextlib import nullcontext

from memtrans_fairseq.criterions.packed_cross_entropy import PackedCrossEntropyConfig, _unwrapped
from memtrans_fairseq.packing import forward
from memtrans_fairseq.packing.batches import PackedPairs, even_batches, shape_of
from memtrans_fairseq.tasks.packed_translation import PackedTranslationTask
from memtrans_fairseq.variants import SettingError

import numpy as np
import pytest
import torch
import toy
from fairseq.data.data_utils import numpy_seed
from fairseq.tasks.translation import TranslationConfig
from omegaconf import OmegaConf
from packed_pairs import MODELS, assert_learns_as_padded, collated, lengths_of, packed, packed_loss, pairs


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
    assert_learns_as_padded(toy.shake(toy.build(name, **options, **more).double()))


@pytest.mark.parametrize("reads", ["sequence", "memory"])
@pytest.mark.parametrize("name", MODELS[1:])
def test_what_the_decoder_reads(name, reads):
    assert_learns_as_padded(
        toy.shake(toy.build(name, memory_tokens=2, decoder_reads=reads, memory_positions="prefix").double())
    )


def test_no_memory_and_tokens_shared_by_all_layers():
    assert_learns_as_padded(toy.shake(toy.build("mem_transformer", memory_tokens=0).double()))
    assert_learns_as_padded(
        toy.shake(toy.build("mem_ctrl_transformer", memory_tokens=2, share_memory_layers=True).double())
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
    drawn = [even_batches(np.random.default_rng(seed).permutation(20_000), *sizes, 8192) for seed in (1, 2)]
    for batches in drawn:
        counts = [len(batch) for batch in batches]
        assert max(counts) - min(counts) <= 1
        for side in sizes:
            sums = np.array([side[batch].sum() for batch in batches])
            assert sums.max() <= 8192
            assert sums.min() > 0.99 * sums.max()
            spreads = [side[batch].std() for batch in batches]  # of lengths: long ones and short ones in each
            assert min(spreads) > 0.9 * side.std()
        shape = shape_of(batches, *sizes)
        assert shape.source <= 8192 + shape.fillers + 128
        assert shape.sentences <= max(counts) + 3
    first, others = drawn[0][0], drawn[1]
    assert max(len(np.intersect1d(first, batch)) for batch in others) < 0.1 * len(first), "seldom the same together"


def test_few_sentences_or_long_ones_fill_as_many_batches_as_they_need():
    for number, size, batches in ((3, 6, 3), (1001, 6, 1001), (7, 10, 7), (5, 2, 1)):
        found = even_batches(np.arange(number), *np.full((2, number), size), 10)
        assert sorted(np.concatenate(found)) == list(range(number))
        assert len(found) == batches


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


@pytest.mark.parametrize("number", [2, 4, 8, 16])
def test_parts_of_batches_are_even(number):
    sizes = lengths_of(20_000, 60, seed=0)
    batches = even_batches(np.random.default_rng(1).permutation(20_000), *sizes, 8192 * number)
    parts = [batch[part::number] for batch in batches for part in range(number)]
    for side in sizes:
        sums = np.array([side[part].sum() for part in parts])
        assert sums.mean() > 0.99 * sums.max()


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
