"""fairseq's transformer options as one flat dataclass, and presets of options.

fairseq's own `TransformerConfig` is nested (`encoder.layers`), and its command line cannot reach into nested
dataclasses: `--encoder-layers 2` would be accepted and ignored. A flat dataclass keeps fairseq's option names
(`encoder_layers`), works on the command line and in Hydra, and refuses a misspelt key by name.
"""

import dataclasses
from argparse import Namespace
from collections.abc import Callable
from enum import Enum
from typing import Any

from fairseq.dataclass import FairseqDataclass
from fairseq.models.transformer import TransformerConfig
from omegaconf import II, DictConfig, OmegaConf

# In fairseq's transformer the decoder is as wide as the encoder unless told otherwise.
FOLLOWS = {
    "decoder_embed_dim": II(".encoder_embed_dim"),
    "decoder_ffn_embed_dim": II(".encoder_ffn_embed_dim"),
    "decoder_input_dim": II(".decoder_embed_dim"),
    "decoder_output_dim": II(".decoder_embed_dim"),
}


def _flat_fields(cls: type, prefix: str = "") -> list[tuple[str, Any, Any]]:
    fields: list[tuple[str, Any, Any]] = []
    for field in dataclasses.fields(cls):
        name = prefix + field.name
        if isinstance(field.type, type) and issubclass(field.type, FairseqDataclass):
            fields += _flat_fields(field.type, f"{name}_")
        elif field.name != "_name":
            default = FOLLOWS.get(name, field.default)
            fields.append((name, field.type, dataclasses.field(default=default, metadata=field.metadata)))
    return fields


FlatTransformerConfig = dataclasses.make_dataclass(
    "FlatTransformerConfig", _flat_fields(TransformerConfig), bases=(FairseqDataclass,)
)
FlatTransformerConfig.__doc__ = "All options of fairseq's transformer, flat: `encoder.layers` is `encoder_layers`."


def nested(cfg: DictConfig | Namespace) -> TransformerConfig:
    """fairseq's nested config of the flat `cfg`. Options that fairseq does not know (memory's) stay on top.

    Choices are plain words in it: torch 2.11 compiles `==` between fairseq's enumerations and a word as if it were
    always false, so that a compiled model would take another way than it was told.
    """
    values: Any = OmegaConf.to_container(cfg, resolve=True) if isinstance(cfg, DictConfig) else vars(cfg)
    plain = {key: value.value if isinstance(value, Enum) else value for key, value in values.items()}
    return TransformerConfig.from_namespace(Namespace(**plain))


def preset_setter(preset: dict[str, Any]) -> Callable[[Namespace], None]:
    """fairseq's function for an `--arch` name: fill in the preset's options that the command line leaves open."""

    def set_missing(args: Namespace) -> None:
        for option, value in preset.items():
            if not hasattr(args, option):
                setattr(args, option, value)

    return set_missing
