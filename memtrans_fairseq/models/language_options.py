"""The options of the language models, and which of them cannot work together."""

from dataclasses import dataclass, field
from typing import Any, Optional

from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.utils import get_available_activation_fns

from ..modules.memory import MemoryOptions
from ..variants import SettingError, Variant


@dataclass
class TransformerXLOptions(FairseqDataclass):
    decoder_embed_dim: int = field(default=410, metadata={"help": "channels"})
    decoder_ffn_embed_dim: int = field(default=2100, metadata={"help": "channels inside the feed-forward sub-layer"})
    decoder_layers: int = field(default=16, metadata={"help": "layers"})
    decoder_attention_heads: int = field(default=10, metadata={"help": "attention heads"})
    decoder_normalize_before: bool = field(default=False, metadata={"help": "layer norm before each sub-layer"})
    activation_fn: ChoiceEnum(get_available_activation_fns()) = field(  # type: ignore[valid-type]
        default="relu", metadata={"help": "activation function to use"}
    )
    dropout: float = field(default=0.1, metadata={"help": "dropout probability"})
    attention_dropout: float = field(default=0.0, metadata={"help": "dropout probability for attention weights"})
    activation_dropout: float = field(default=0.0, metadata={"help": "dropout probability after activation in FFN"})
    mem_len: int = field(
        default=0, metadata={"help": "earlier rows that each layer caches: tokens, and interspersed memory"}
    )
    clamp_len: int = field(default=0, metadata={"help": "distances beyond it count as this one; 0: no limit"})
    adaptive_softmax_cutoff: Optional[str] = field(
        default=None, metadata={"help": "comma separated list of adaptive softmax cutoff points"}
    )
    adaptive_div_value: int = field(
        default=1, metadata={"help": "words of each further part have so many times fewer channels"}
    )
    init_std: float = field(default=0.02, metadata={"help": "standard deviation of weights at the start"})
    checkpoint_activations: bool = field(
        default=False, metadata={"help": "checkpoint activations at each layer: less memory, more time"}
    )
    compile_layers: bool = field(
        default=False, metadata={"help": "run layers through torch.compile: faster after a start of a minute or so"}
    )


@dataclass
class LanguageMemoryOptions(MemoryOptions):
    memory_placement: ChoiceEnum(["front", "interspersed", "recurrent"]) = field(  # type: ignore[valid-type]
        default="front",
        metadata={
            "help": "where the [mem] rows stand: 'front' of each segment, a learned prefix; 'interspersed', a group "
            "before every --memory-every tokens, after those that it summarises; 'recurrent', read at the start of a "
            "segment, written at its end and carried to the next"
        },
    )
    memory_every: int = field(
        default=0, metadata={"help": "tokens between two groups of [mem] rows; 0: none inside a segment"}
    )
    memory_bptt: int = field(
        default=0, metadata={"help": "earlier segments that gradients of carried memory go back through"}
    )
    attention_window: int = field(
        default=0,
        metadata={"help": "bottleneck: tokens of its own chunk that a token sees, itself included; 0: all earlier"},
    )


def cutoffs_of(cfg: Any) -> list[int]:
    """The numbers of `--adaptive-softmax-cutoff`. Raises SettingError."""
    try:
        return [int(number) for number in (cfg.adaptive_softmax_cutoff or "").split(",") if number]
    except ValueError:
        given = cfg.adaptive_softmax_cutoff
        raise SettingError(f"--adaptive-softmax-cutoff {given}: expected numbers, such as 20000,40000") from None


def check_segments(cfg: Any, tokens: int | None) -> None:
    """Refuse memory that no segment of `tokens` tokens would have inside. Raises SettingError."""
    if str(cfg.memory_placement) == "interspersed" and tokens and cfg.memory_every >= tokens:
        raise SettingError(
            f"--memory-every {cfg.memory_every} puts no memory inside a segment of {tokens} tokens: choose less, or "
            "--memory-placement front or recurrent"
        )


def check(variant: Variant, cfg: Any, words: int) -> None:
    """Refuse settings that cannot work, for a vocabulary of `words`. Raises SettingError."""
    tokens, placement = cfg.memory_tokens, str(cfg.memory_placement)
    least = {"decoder_layers": 1, "decoder_attention_heads": 1, "adaptive_div_value": 1}
    least |= dict.fromkeys(("mem_len", "clamp_len", "memory_every", "memory_bptt", "attention_window"), 0)
    for name, number in least.items():
        if getattr(cfg, name) < number:
            raise SettingError(f"--{name.replace('_', '-')} {getattr(cfg, name)}: expected {number} or more")
    cutoffs = cutoffs_of(cfg)
    wrong = {
        f"{variant.name}_transformer_lm needs at least {variant.fewest_tokens} memory token(s), got {tokens}: "
        "set --memory-tokens": tokens < variant.fewest_tokens,
        f"--memory-placement {placement} without memory: set --memory-tokens": tokens == 0 and placement != "front",
        "--memory-placement interspersed needs --memory-every": placement == "interspersed" and cfg.memory_every < 1,
        "--memory-every puts memory inside a segment: --memory-placement front has it before; choose interspersed or "
        "recurrent": placement == "front" and cfg.memory_every != 0,
        "--memory-bptt goes back through carried memory: choose --memory-placement recurrent": cfg.memory_bptt != 0
        and placement != "recurrent",
        "a bottleneck's memory at the front can write nothing: choose --memory-placement interspersed or recurrent": (
            variant.bottleneck and placement == "front"
        ),
        "--mem-len shows a token earlier ones beside memory, which a bottleneck must not: set --mem-len 0": (
            variant.bottleneck and cfg.mem_len != 0
        ),
        "--attention-window is for the bottleneck: other models see all earlier tokens": cfg.attention_window != 0
        and not variant.bottleneck,
        f"decoder_embed_dim {cfg.decoder_embed_dim} is not a multiple of the {cfg.decoder_attention_heads} attention "
        "heads": cfg.decoder_embed_dim % cfg.decoder_attention_heads,
        f"--adaptive-softmax-cutoff {cfg.adaptive_softmax_cutoff}: expected rising numbers below the {words} words of "
        "the vocabulary": cutoffs != sorted({*cutoffs}) or not all(0 < cutoff < words for cutoff in cutoffs),
        f"--adaptive-div-value {cfg.adaptive_div_value} leaves no channels for the last part of the vocabulary": (
            cfg.decoder_embed_dim < cfg.adaptive_div_value ** len(cutoffs)
        ),
    }
    for message, applies in wrong.items():
        if applies:
            raise SettingError(message)
