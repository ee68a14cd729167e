"""Sentence pairs without padding, and what a model learns from them and from padded ones."""

from memtrans_fairseq.packing import forward
from memtrans_fairseq.packing.batches import PackedPairs
from memtrans_fairseq.variants import VARIANTS

import numpy as np
import torch
import toy
from fairseq import utils
from fairseq.criterions.label_smoothed_cross_entropy import LabelSmoothedCrossEntropyCriterion
from fairseq.data import LanguagePairDataset
from fairseq.data.data_utils import numpy_seed

SMOOTHING = 0.1
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


def assert_learns_as_padded(model: torch.nn.Module) -> None:
    """Loss, counts and all gradients of two batches are those of fairseq's padded batch."""
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
