"""Toy models for the tests: a few channels, a few layers, random weights."""

from argparse import Namespace
from collections.abc import Iterable
from typing import Any

import memtrans_fairseq  # noqa: F401  (must come before fairseq)

import torch
from fairseq import models
from fairseq.data import Dictionary, LanguagePairDataset
from omegaconf import OmegaConf

SIZE = {
    "encoder_embed_dim": 16,
    "encoder_ffn_embed_dim": 32,
    "encoder_layers": 3,
    "encoder_attention_heads": 4,
    "decoder_layers": 2,
    "decoder_attention_heads": 4,
    "share_all_embeddings": True,
}
STOCK_SIZE = SIZE | {"decoder_ffn_embed_dim": 32}


def dictionary(words: int = 60) -> Dictionary:
    result = Dictionary()
    for index in range(words):
        result.add_symbol(f"w{index}")
    return result


DICTIONARY = dictionary()
TASK = Namespace(source_dictionary=DICTIONARY, target_dictionary=DICTIONARY, target_lang="en")
PAD, EOS = DICTIONARY.pad(), DICTIONARY.eos()


def build(name: str, seed: int = 0, **options: Any) -> torch.nn.Module:
    """A toy model by its fairseq name, in eval mode, with the given options (fairseq's names)."""
    torch.manual_seed(seed)
    size = STOCK_SIZE if name == "transformer" else SIZE
    root = OmegaConf.create({"model": {"_name": name, **size, **options}})
    return models.build_model(root.model, TASK).eval()


def sentences(lengths: Iterable[int], seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    words = [torch.randint(4, len(DICTIONARY), (length - 1,), generator=generator) for length in lengths]
    return [torch.cat([w, torch.tensor([EOS])]) for w in words]


def batch(source: list[torch.Tensor], width: int | None = None, left: bool = True) -> torch.Tensor:
    """B x T, padded on the left as fairseq's translation task does."""
    width = width or max(map(len, source))
    rows = torch.full((len(source), width), PAD)
    for row, tokens in zip(rows, source, strict=True):
        row[slice(width - len(tokens), None) if left else slice(len(tokens))] = tokens
    return rows


def pair_dataset(source: list[torch.Tensor]) -> LanguagePairDataset:
    return LanguagePairDataset(source, [len(s) for s in source], DICTIONARY, shuffle=False)


def shake(model: torch.nn.Module, seed: int = 1) -> torch.nn.Module:
    """Give every trained parameter a random value: biases and layer norms start at 0 and 1, which can hide mistakes."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)
    with torch.no_grad():
        model.encoder.embed_tokens.weight[PAD] = 0
    return model
