"""Toy language models for the tests: a few channels, a few layers, weights that hide no mistake."""

from argparse import Namespace
from typing import Any

import memtrans_fairseq  # noqa: F401  (must come before fairseq)

import torch
from fairseq import models
from omegaconf import OmegaConf
from toy import dictionary

SIZE = {
    "decoder_embed_dim": 12,
    "decoder_ffn_embed_dim": 20,
    "decoder_layers": 3,
    "decoder_attention_heads": 3,
    "dropout": 0.0,
}
DICTIONARY = dictionary(58)  # 60 words with </s> and <unk>
TASK = Namespace(source_dictionary=DICTIONARY, target_dictionary=DICTIONARY)
PAD, EOS = DICTIONARY.pad(), DICTIONARY.eos()


def build(name: str, seed: int = 0, **options: Any) -> torch.nn.Module:
    """A toy language model by its fairseq name, in eval mode and float64, with the given options (fairseq's names)."""
    torch.manual_seed(seed)
    root = OmegaConf.create({"model": {"_name": name, **SIZE, **options}})
    return models.build_model(root.model, TASK).double().eval()


def shake(model: torch.nn.Module, seed: int = 1) -> torch.nn.Module:
    """Give every parameter a random value: biases and layer norms start at 0 and 1, which can hide mistakes."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    return model


def text(rows: int, length: int, seed: int = 0) -> torch.Tensor:
    """Random tokens, rows x length."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(EOS, len(DICTIONARY), (rows, length), generator=generator)


def stream(model: torch.nn.Module, tokens: torch.Tensor, segment: int, state: Any = None) -> torch.Tensor:
    """Features of B x T tokens, read in segments."""
    features = []
    for part in tokens.split(segment, dim=1):
        found, extra = model(part, state=state)
        state = extra["state"]
        features.append(found)
    return torch.cat(features, dim=1)
