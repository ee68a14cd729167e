"""The causal host: a Transformer-XL with memory among its rows, which reads a text segment by segment.

Shape legend: T tokens of a segment, M memory tokens, K cached rows, B batch, C channels, V vocabulary.

State goes from segment to segment: the cache, the last K inputs of every layer (Dai et al. 2019), and carried memory,
the last memory group's output (Recurrent Memory Transformer, Bulatov et al. 2022). Where memory stands and what sees
what is drawn in `modules.causal`. Without memory and cache this is the Transformer of that paper's tables.
"""

import functools
import math
from argparse import Namespace
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, make_dataclass
from typing import Any, Optional

import torch
import torch.nn.functional as F
from fairseq import options
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.dataclass.utils import gen_parser_from_dataclass
from fairseq.models import FairseqDecoder, FairseqLanguageModel, register_model, register_model_architecture
from fairseq.modules.checkpoint_activations import checkpoint_wrapper
from fairseq.utils import get_available_activation_fns
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from ..modules.causal import CausalParts, ChunkRows, DenseRows, Layout
from ..modules.memory import MemoryOptions, MemoryTokens
from ..modules.relative import RelativePositions
from ..modules.vocabulary import TiedVocabulary
from ..presets import LANGUAGE_MODELING
from ..variants import VARIANTS, SettingError, Variant
from .config import preset_setter

State = dict[str, Any]  # "cache": a tensor B x K x C for each layer; "memory": B x M x C; "past": earlier segments


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
    mem_len: int = field(default=0, metadata={"help": "rows of earlier segments that each layer caches"})
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


class LanguageModelDecoder(FairseqDecoder):
    """The stack of layers, its embeddings and its softmax. Words are counted from the dictionary's `</s>` on.

    (The symbols before it, `<s>` and `<pad>`, do not occur in a stream, and so have no parameters.)
    """

    def __init__(self, cfg: Any, dictionary: Any, variant: Variant) -> None:
        super().__init__(dictionary)
        self.cfg, self.bottleneck = cfg, variant.bottleneck
        self.first_word = dictionary.eos()
        self.mem_len, self.same_length = cfg.mem_len, False
        channels = cfg.decoder_embed_dim
        cutoffs = options.eval_str_list(cfg.adaptive_softmax_cutoff, type=int) or []
        self.vocabulary = TiedVocabulary(len(dictionary) - self.first_word, channels, cutoffs, cfg.adaptive_div_value)
        self.positions = RelativePositions(channels, cfg.decoder_attention_heads, cfg.dropout, cfg.clamp_len)
        self.dropout = nn.Dropout(cfg.dropout)
        make_layer = variant.layers(cfg, CausalParts(cfg))
        self.layers = nn.ModuleList(make_layer() for _ in range(cfg.decoder_layers))
        self.apply(self._initialise)
        # scaled as in the authors' code: like rows that layer norms put out, and like carried memory
        self.memory = MemoryTokens(cfg.memory_tokens, channels, cfg.memory_init, 1.0) if cfg.memory_tokens else None
        for layer in self.layers:
            if cfg.checkpoint_activations:
                checkpoint_wrapper(layer)

    def _initialise(self, module: nn.Module) -> None:
        """As Transformer-XL: normal, biases 0, layer norms around 1, projections of embeddings 0.01."""
        std = self.cfg.init_std
        for name, parameter in module.named_parameters(recurse=False):
            if name.endswith("bias") and parameter.dim() == 1:
                nn.init.zeros_(parameter)
            else:
                nn.init.normal_(parameter, mean=float(isinstance(module, nn.LayerNorm)), std=std)
        if isinstance(module, TiedVocabulary):
            for weight in module.weights:
                nn.init.normal_(weight, std=std)
            for projection in module.projections:
                nn.init.normal_(projection, std=0.01)

    @property
    def carries_memory(self) -> bool:
        return self.memory is not None and self.cfg.memory_placement == "recurrent"

    def max_positions(self) -> int:
        return int(1e6)  # positions are relative: any length will do

    def forward(self, src_tokens: Tensor, state: State | None = None, **further: Any) -> tuple[Tensor, dict[str, Any]]:
        """src_tokens B x T. Returns features B x T x C and {"state": for the next segment, or None without any}.

        `state` is what the segment before returned; None at the start of a text.
        """
        state = state or {}
        memory, cache = state.get("memory"), state.get("cache")
        past = state.get("past", [])
        if past:  # once more through earlier segments, so that gradients reach what wrote the memory
            memory, cache = past[0]["memory"], past[0]["cache"]
            for segment in past:
                _, memory, cache = self._segment(segment["tokens"], memory, cache)
        start = {"tokens": src_tokens, "memory": _detached(memory), "cache": cache}
        features, memory, cache = self._segment(src_tokens, memory, cache)
        after: State = {}
        if cache is not None:
            after["cache"] = cache
        if memory is not None:
            after["memory"] = memory.detach()
            if self.training and self.cfg.memory_bptt:
                after["past"] = [*past, start][-self.cfg.memory_bptt :]
        return features, {"state": after or None}

    def _segment(
        self, tokens: Tensor, memory: Tensor | None, cache: list[Tensor] | None
    ) -> tuple[Tensor, Tensor | None, list[Tensor] | None]:
        """tokens B x T. Returns features, and the memory and the cache after them, where the model has such."""
        x = self.vocabulary.embed((tokens - self.first_word).clamp(min=0))
        layout = self._layout(tokens.size(1))
        if self.memory is not None:
            learned = self.memory(tokens.size(0))
            # "+ 0 *": DistributedDataParallel wants every parameter to take part in every update
            start = learned if memory is None else memory.to(x) + 0 * learned
            x = layout.assemble(start, x)
        x = self.dropout(x)
        rows = self._rows(layout, x, cache[0].size(1) if cache else 0)
        # only shapes that come again and again are worth compiling for, not those of the first segments of a text
        worth_it = (
            self.cfg.compile_layers
            and self.training
            and (not self.mem_len or (cache and cache[0].size(1) == self.mem_len))
        )
        x, inputs = (self._compiled if worth_it else self._through_layers)(x, rows, cache)
        x = self.dropout(x)
        written = x[:, -self.cfg.memory_tokens :] if self.carries_memory else None
        features = layout.tokens_of(x)
        if self.training:  # the last layer's memory, which nothing reads any more: see above
            features = features + 0 * x.sum()
        return features, written, self._cached(inputs, cache, layout)

    def _through_layers(
        self, x: Tensor, rows: DenseRows | ChunkRows, cache: list[Tensor] | None
    ) -> tuple[Tensor, list[Tensor]]:
        """X after the last layer, and what each layer took."""
        inputs = []
        for number, layer in enumerate(self.layers):
            inputs.append(x)
            x = layer(x, rows.after(cache[number].to(x)) if cache else rows)
        return x, inputs

    @functools.cached_property
    def _compiled(self) -> Callable[..., tuple[Tensor, list[Tensor]]]:
        return torch.compile(self._through_layers)

    def _layout(self, tokens: int) -> Layout:
        every = self.cfg.memory_every or tokens
        return Layout(tokens, self.cfg.memory_tokens, every, self.carries_memory, self.bottleneck)

    def _rows(self, layout: Layout, x: Tensor, cached: int) -> DenseRows | ChunkRows:
        if self.bottleneck:
            return ChunkRows.build(layout, self.positions, x, self.cfg.attention_window or None)
        reach = self.mem_len if self.same_length else None
        return DenseRows.build(layout, self.positions, x, cached, self._interspersed, reach)

    @property
    def _interspersed(self) -> bool:
        return self.cfg.memory_placement == "interspersed"

    def _cached(self, inputs: list[Tensor], cache: list[Tensor] | None, layout: Layout) -> list[Tensor] | None:
        """The last `mem_len` rows of the text. Memory that is no summary of what came before is not among them."""
        if not self.mem_len:
            return None
        rows = (x.detach() if self._interspersed else layout.tokens_of(x.detach()) for x in inputs)
        if cache:
            rows = (torch.cat([old, new], dim=1) for old, new in zip(cache, rows, strict=True))
        return [both[:, -self.mem_len :] for both in rows]

    def get_normalized_probs(self, net_output: Any, log_probs: bool, sample: Any = None) -> Tensor:
        """Over the whole dictionary: B x T x V. `<s>` and `<pad>` have probability 0."""
        found = self.vocabulary.log_probabilities(net_output[0])
        found = F.pad(found, (self.first_word, 0), value=-math.inf)
        return found if log_probs else found.exp()


def _detached(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.detach()


class LanguageModel(FairseqLanguageModel):
    """A causal language model with a memory variant. One subclass is registered for each variant."""

    variant: Variant
    streams = True  # the streaming task hands it the state of the segment before

    @classmethod
    def add_args(cls, parser: Any) -> None:
        # No defaults, so that a preset can fill in what the command line leaves open.
        gen_parser_from_dataclass(parser, getattr(cls, "__dataclass")(), delete_default=True, with_prefix="")  # noqa: B009

    @classmethod
    def build_model(cls, cfg: Any, task: Any) -> "LanguageModel":
        values: Any = OmegaConf.to_container(cfg, resolve=True) if isinstance(cfg, DictConfig) else vars(cfg)
        without: Any = asdict(LanguageMemoryOptions(memory_tokens=0))  # for the baseline, which has no such options
        config = Namespace(**without | values)
        check(cls.variant, config, len(task.source_dictionary) - task.source_dictionary.eos())
        return cls(LanguageModelDecoder(config, task.source_dictionary, cls.variant))

    @property
    def mem_len(self) -> int:
        return self.decoder.mem_len

    def nll(self, features: Tensor, target: Tensor) -> Tensor:
        """features B x T x C, target B x T. Negative log-likelihoods in nats, 0 where target is `<pad>`: float32."""
        real = target >= self.decoder.first_word
        words = (target - self.decoder.first_word).clamp(min=0)
        return self.decoder.vocabulary.nll(features.flatten(0, 1), words.flatten()).view_as(words) * real

    def set_context(
        self, mem_len: int | None = None, clamp_len: int | None = None, same_length: bool | None = None
    ) -> None:
        """Change what is cached, for evaluation; None leaves a setting. Raises SettingError for a model without cache.

        With `same_length`, every row sees `mem_len` rows, itself included, and not those of its segment on top.
        """
        if mem_len and not self.mem_len:
            raise SettingError(f"a cache of {mem_len} rows: this model was trained without one (--mem-len 0)")
        decoder = self.decoder
        decoder.mem_len = decoder.mem_len if mem_len is None else mem_len
        decoder.same_length = decoder.same_length if same_length is None else same_length
        decoder.positions.clamp_len = decoder.positions.clamp_len if clamp_len is None else clamp_len

    def segments_of_state(self, tokens: int) -> int:
        """How many segments of `tokens` tokens bring back the state of a text that is entered in its middle.

        The cache reaches back `mem_len` rows in each layer. Carried memory never ends; ten segments are taken for it.
        """
        cached = self.decoder.cfg.decoder_layers * -(-self.mem_len // tokens)
        return max(cached, 10 * self.decoder.carries_memory)


def check(variant: Variant, cfg: Any, words: int) -> None:
    """Refuse settings that cannot work, for a vocabulary of `words`. Raises SettingError."""
    tokens, placement = cfg.memory_tokens, str(cfg.memory_placement)
    cutoffs = options.eval_str_list(cfg.adaptive_softmax_cutoff, type=int) or []
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
    }
    for name in ("mem_len", "clamp_len", "memory_every", "memory_bptt", "attention_window"):
        wrong[f"--{name.replace('_', '-')} {getattr(cfg, name)}: expected 0 or more"] = getattr(cfg, name) < 0
    for message, applies in wrong.items():
        if applies:
            raise SettingError(message)


def _register(name: str, variant: Variant, *own: type[FairseqDataclass]) -> None:
    """Make a language model known to fairseq, also in every preset size."""
    dataclass = make_dataclass(f"{name}_options", [], bases=(*own, TransformerXLOptions))
    model = type(name, (LanguageModel,), {"variant": variant, "__module__": __name__})
    register_model(name, dataclass=dataclass)(model)
    for size, preset in LANGUAGE_MODELING.items():
        arch = f"{name}_{size}"
        register_model_architecture(name, arch)(preset_setter(preset))
        ConfigStore.instance().store(arch, {"_name": name, **preset}, group="model", provider="memtrans_fairseq")


_register("transformer_xl", VARIANTS["mem"])
for _variant in VARIANTS.values():
    _register(f"{_variant.name}_transformer_lm", _variant, _variant.options, LanguageMemoryOptions)
