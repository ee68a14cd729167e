"""The encoder-decoder host: fairseq's transformer with memory before the encoder's input (arXiv 2006.11527, sec. 2).

Shape legend: T source time, B batch, C channels, M memory tokens. The decoder is an ordinary one; its
cross-attention sees the encoder's output over [memory; sequence], or one of the two (`--decoder-reads`).
"""

from dataclasses import asdict, dataclass, field, make_dataclass
from typing import Any

import torch
import torch.nn.functional as F
from fairseq.dataclass import ChoiceEnum
from fairseq.dataclass.utils import gen_parser_from_dataclass
from fairseq.distributed import fsdp_wrap
from fairseq.models import register_model, register_model_architecture
from fairseq.models.transformer import (
    TransformerConfig,
    TransformerDecoderBase,
    TransformerEncoderBase,
    TransformerModelBase,
)
from fairseq.modules.checkpoint_activations import checkpoint_wrapper
from hydra.core.config_store import ConfigStore
from torch import Tensor, nn

from ..modules.block import EncoderLayer, EncoderParts, EncoderRows
from ..modules.memory import MemoryOptions, MemoryTokens
from ..presets import TRANSLATION
from ..variants import VARIANTS, SettingError, Variant
from .config import FlatTransformerConfig, nested, preset_setter


@dataclass
class TranslationOptions(MemoryOptions):
    memory_positions: ChoiceEnum(["none", "prefix"]) = field(  # type: ignore[valid-type]
        default="none",
        metadata={
            "help": "positional encodings of the [mem] rows: 'none'; 'prefix' gives them the first positions and lets "
            "the sequence start after them, as if they were tokens of the input"
        },
    )
    decoder_reads: ChoiceEnum(["all", "sequence", "memory"]) = field(  # type: ignore[valid-type]
        default="all", metadata={"help": "encoder rows that the decoder attends to"}
    )


class MemoryEncoder(TransformerEncoderBase):
    """fairseq's encoder over [memory; sequence]. `encoder_out` and its padding mask cover all M + T rows."""

    def __init__(self, cfg: TransformerConfig, dictionary: Any, embed_tokens: nn.Embedding, variant: Variant) -> None:
        self.make_layer = variant.layers(cfg, EncoderParts(cfg))
        super().__init__(cfg, dictionary, embed_tokens)
        del self.make_layer
        channels = embed_tokens.embedding_dim
        self.memory = MemoryTokens.of(cfg, channels, channels**-0.5)

    def build_encoder_layer(self, cfg: TransformerConfig) -> nn.Module:
        layer = self.make_layer()
        if cfg.checkpoint_activations:
            layer = checkpoint_wrapper(layer, offload_to_cpu=cfg.offload_activations)
        return fsdp_wrap(layer, min_num_params=0 if cfg.checkpoint_activations else cfg.min_params_to_wrap)

    def upgrade_state_dict_named(self, state_dict: dict[str, Tensor], name: str) -> dict[str, Tensor]:
        """Bring an old checkpoint of fairseq up to date. Only its own layers have had several layouts."""
        own = all(isinstance(layer, EncoderLayer) for layer in self.layers.children())  # none of them dropped
        return super().upgrade_state_dict_named(state_dict, name) if own else state_dict

    def max_positions(self) -> int:
        taken = self.cfg.memory_tokens if self.cfg.memory_positions == "prefix" else 0
        return super().max_positions() - taken

    def forward_embedding(self, src_tokens: Tensor, token_embedding: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """src_tokens B x T. Returns the first layer's input, B x (M + T) x C, and the scaled embeddings, B x T x C."""
        if self.memory is None:
            return super().forward_embedding(src_tokens, token_embedding)
        if token_embedding is None:
            token_embedding = self.embed_tokens(src_tokens)
        memory = self.memory(src_tokens.size(0)).to(token_embedding)
        x = self.embed_scale * torch.cat([memory, token_embedding], dim=1)
        embed = x[:, memory.size(1) :]
        if self.embed_positions is not None:
            x = x + self._positions(src_tokens)
        if self.layernorm_embedding is not None:
            x = self.layernorm_embedding(x)
        x = self.dropout_module(x)
        if self.quant_noise is not None:
            x = self.quant_noise(x)
        return x, embed

    def _positions(self, src_tokens: Tensor) -> Tensor:
        memory_tokens = self.cfg.memory_tokens
        if self.cfg.memory_positions == "none":
            return F.pad(self.embed_positions(src_tokens), (0, 0, memory_tokens, 0))
        # fairseq numbers whatever is not padding, so any other symbol stands for a memory row here
        rows = F.pad(src_tokens, (memory_tokens, 0), value=self.padding_idx + 1)
        return self.embed_positions(rows)

    def forward_scriptable(
        self,
        src_tokens: Tensor,
        src_lengths: Tensor | None = None,
        return_all_hiddens: bool = False,
        token_embeddings: Tensor | None = None,
    ) -> dict[str, list[Tensor]]:
        x, embedding = self.forward_embedding(src_tokens, token_embeddings)
        is_padding = src_tokens.eq(self.padding_idx)
        padding_mask = F.pad(is_padding, (self.cfg.memory_tokens, 0), value=False)
        has_padding = bool(is_padding.any())
        if has_padding:
            x = x.masked_fill(padding_mask.unsqueeze(-1), 0)
        x = x.transpose(0, 1)  # (M + T) x B x C

        states = [x] if return_all_hiddens else []
        rows = EncoderRows(self.cfg.memory_tokens, padding_mask if has_padding else None)
        for layer in self.layers:
            x = layer(x, rows)
            if return_all_hiddens:
                states.append(x)
        if self.layer_norm is not None:
            x = self.layer_norm(x)

        return {
            "encoder_out": [x],
            "encoder_padding_mask": [padding_mask],
            "encoder_embedding": [embedding],
            "encoder_states": states,
            "fc_results": [],
            "src_tokens": [],
            "src_lengths": [(~is_padding).sum(dim=1, dtype=torch.int32).reshape(-1, 1)],
        }


class MemoryDecoder(TransformerDecoderBase):
    """fairseq's decoder, reading the rows of the encoder's output that `decoder_reads` names."""

    def rows_read(self, encoder_out: dict[str, list[Tensor]]) -> dict[str, list[Tensor]]:
        """The encoder's output without the rows that are not read."""
        tokens, reads = self.cfg.memory_tokens, self.cfg.decoder_reads
        if reads == "all":
            return encoder_out
        rows = slice(tokens) if reads == "memory" else slice(tokens, None)
        return encoder_out | {
            "encoder_out": [out[rows] for out in encoder_out["encoder_out"]],
            "encoder_padding_mask": [mask[:, rows] for mask in encoder_out["encoder_padding_mask"]],
        }

    def extract_features(
        self, prev_output_tokens: Tensor, encoder_out: dict[str, list[Tensor]] | None, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, dict[str, Any]]:
        tokens, reads = self.cfg.memory_tokens, self.cfg.decoder_reads
        if encoder_out is not None:
            encoder_out = self.rows_read(encoder_out)
        x, extra = super().extract_features(prev_output_tokens, encoder_out, *args, **kwargs)
        # Alignments are to source tokens: of the attention, fairseq's tools get the sequence's part.
        if reads == "memory":
            extra["attn"] = [None]
        elif reads == "all" and extra["attn"][0] is not None:
            extra["attn"] = [extra["attn"][0][..., tokens:]]
        return x, extra


class MemoryTransformerModel(TransformerModelBase):
    """fairseq's transformer with a memory variant in the encoder. One subclass is registered per variant."""

    variant: Variant

    @classmethod
    def add_args(cls, parser: Any) -> None:
        # No defaults, so that a preset can fill in what the command line leaves open.
        gen_parser_from_dataclass(parser, getattr(cls, "__dataclass")(), delete_default=True, with_prefix="")  # noqa: B009

    @classmethod
    def build_model(cls, cfg: Any, task: Any) -> nn.Module:
        config = nested(cfg)
        cls.check(config)
        return super().build_model(config, task)

    @classmethod
    def check(cls, cfg: TransformerConfig) -> None:
        """Refuse settings that cannot work. Raises SettingError."""
        name, tokens = f"{cls.variant.name}_transformer", cfg.memory_tokens
        if tokens < cls.variant.fewest_tokens:
            raise SettingError(
                f"{name} needs at least {cls.variant.fewest_tokens} memory token(s), got {tokens}: set --memory-tokens"
            )
        if tokens == 0 and cfg.decoder_reads == "memory":
            raise SettingError("--decoder-reads memory leaves the decoder blind without memory: set --memory-tokens")
        for side in (cfg.encoder, cfg.decoder):
            if side.embed_dim % side.attention_heads:
                raise SettingError(
                    f"embed_dim {side.embed_dim} is not a multiple of the {side.attention_heads} attention heads"
                )
        if cfg.memory_positions == "prefix" and tokens >= cfg.max_source_positions:
            raise SettingError(
                f"--memory-positions prefix takes {tokens} of --max-source-positions {cfg.max_source_positions}: "
                "no position is left for the sequence"
            )

    @classmethod
    def build_encoder(cls, cfg: TransformerConfig, src_dict: Any, embed_tokens: nn.Embedding) -> MemoryEncoder:
        return MemoryEncoder(cfg, src_dict, embed_tokens, cls.variant)

    @classmethod
    def build_decoder(cls, cfg: TransformerConfig, tgt_dict: Any, embed_tokens: nn.Embedding) -> MemoryDecoder:
        return MemoryDecoder(cfg, tgt_dict, embed_tokens, no_encoder_attn=cfg.no_cross_attention)


def _register(variant: Variant) -> None:
    """Make `<variant>_transformer` known to fairseq, and `<variant>_transformer_<size>` for every preset."""
    name = f"{variant.name}_transformer"
    options = make_dataclass(f"{name}_options", [], bases=(variant.options, TranslationOptions, FlatTransformerConfig))
    model = type(name, (MemoryTransformerModel,), {"variant": variant, "__module__": __name__})
    register_model(name, dataclass=options)(model)
    for size, preset in TRANSLATION.items():
        register_model_architecture(name, f"{name}_{size}")(preset_setter(preset))
        node = asdict(options()) | preset | {"_name": name}
        ConfigStore.instance().store(f"{name}_{size}", node, group="model", provider="memtrans_fairseq")


for _variant in VARIANTS.values():
    _register(_variant)
