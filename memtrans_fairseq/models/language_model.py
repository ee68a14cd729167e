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
from dataclasses import asdict, make_dataclass
from typing import Any

import torch
import torch.nn.functional as F
from fairseq.dataclass import FairseqDataclass
from fairseq.dataclass.utils import gen_parser_from_dataclass
from fairseq.models import FairseqDecoder, FairseqLanguageModel, register_model, register_model_architecture
from fairseq.tasks import FairseqTask
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..modules.causal import CausalParts, ChunkRows, DenseRows, Layout
from ..modules.graphs import copied, keep_gradients
from ..modules.memory import MemoryTokens
from ..modules.relative import RelativePositions
from ..modules.vocabulary import TiedVocabulary
from ..presets import LANGUAGE_MODELING
from ..variants import VARIANTS, SettingError, Variant
from .config import preset_setter
from .language_options import LanguageMemoryOptions, TransformerXLOptions, check, check_segments, cutoffs_of

# "cache": a tensor B x K x C for each layer; "memory": B x M x C; "past": for each earlier segment that gradients go
# back through, its tokens, and the memory and the cache that it began with
State = dict[str, Any]


class LanguageModelDecoder(FairseqDecoder):
    """The stack of layers, its embeddings and its softmax. Words are counted from the dictionary's `</s>` on.

    (The symbols before it, `<s>` and `<pad>`, do not occur in a stream, and so have no parameters.)
    """

    def __init__(self, cfg: Any, dictionary: Any, variant: Variant) -> None:
        super().__init__(dictionary)
        self.cfg, self.bottleneck = cfg, variant.bottleneck
        self.first_word = dictionary.eos()
        self.mem_len, self.same_length = cfg.mem_len, False
        self.usual_shape: torch.Size | None = None  # of X, where layers are compiled
        channels = cfg.decoder_embed_dim
        cutoffs = cutoffs_of(cfg)
        self.vocabulary = TiedVocabulary(len(dictionary) - self.first_word, channels, cutoffs, cfg.adaptive_div_value)
        self.positions = RelativePositions(channels, cfg.decoder_attention_heads, cfg.dropout, cfg.clamp_len)
        self.dropout = nn.Dropout(cfg.dropout)
        make_layer = variant.layers(cfg, CausalParts(cfg))
        self.layers = nn.ModuleList(make_layer() for _ in range(cfg.decoder_layers))
        self.apply(self._initialise)
        # scaled as in the authors' code: like rows that layer norms put out, and like carried memory
        self.memory = MemoryTokens.of(cfg, channels, 1.0)

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
        start = {"tokens": src_tokens, "memory": None if memory is None else copied(memory), "cache": cache}
        features, memory, cache = self._segment(src_tokens, memory, cache)
        after: State = {}
        if cache is not None:
            after["cache"] = cache
        if memory is not None:
            after["memory"] = copied(memory)
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
        through_layers = LanguageModelDecoder._through_layers
        if self._recurring(x, cache):
            keep_gradients(self)
            through_layers = _compiled()
        x, inputs = through_layers(self, x, rows, cache)
        x = self.dropout(x)
        written = x[:, -self.cfg.memory_tokens :] if self.carries_memory else None
        features = layout.tokens_of(x)
        if self.training and self.memory is not None:  # the last layer's, which nothing reads any more: see above
            features = features + 0 * x.mean()
        return features, written, self._cached(inputs, cache, layout)

    def _recurring(self, x: Tensor, cache: list[Tensor] | None) -> bool:
        """Whether shapes are worth compiling for: not those of the first segments of a text, nor of its last."""
        if not (self.cfg.compile_layers and self.training):
            return False
        if self.mem_len and not (cache and cache[0].size(1) == self.mem_len):
            return False
        self.usual_shape = self.usual_shape or x.shape
        return x.shape == self.usual_shape

    def _through_layers(self, x: Tensor, rows: Any, cache: list[Tensor] | None) -> tuple[Tensor, list[Tensor]]:
        """X after the last layer, and what each layer took."""
        inputs = []
        for number, layer in enumerate(self.layers):
            inputs.append(x)
            seen = rows.after(cache[number].to(x)) if cache else rows
            if self.cfg.checkpoint_activations and self.training:
                x = checkpoint(layer, x, seen, use_reentrant=False)
            else:
                x = layer(x, seen)
        return x, inputs

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
        found = []
        for layer, x in enumerate(inputs):
            new = x.detach() if self._interspersed else layout.tokens_of(x.detach())
            if cache and new.size(1) < self.mem_len:
                new = torch.cat([cache[layer].to(new), new], dim=1)
            found.append(copied(new[:, -self.mem_len :]))
        return found

    def get_normalized_probs(self, net_output: Any, log_probs: bool, sample: Any = None) -> Tensor:
        """Over the whole dictionary: B x T x V. `<s>` and `<pad>` have probability 0, so their logarithms are -inf."""
        found = self.vocabulary.log_probabilities(net_output[0])
        found = F.pad(found, (self.first_word, 0), value=-math.inf)
        return found if log_probs else found.exp()


@functools.cache
def _compiled() -> Callable[..., tuple[Tensor, list[Tensor]]]:
    """All layers as one compiled function of the decoder. (Not one of each decoder's own: copies would share it.)

    On a GPU, a CUDA graph: a fast one would mostly wait for launches.
    """
    return torch.compile(LanguageModelDecoder._through_layers, mode="reduce-overhead")


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
        # for the baseline, which has no such options, and for checkpoints older than an option
        missing: Any = asdict(LanguageMemoryOptions(memory_tokens=0)) | asdict(getattr(cls, "__dataclass")())  # noqa: B009
        config = Namespace(**missing | values)
        check(cls.variant, config, len(task.source_dictionary) - task.source_dictionary.eos())
        check_segments(config, getattr(getattr(task, "cfg", None), "tokens_per_sample", None))
        model = cls(LanguageModelDecoder(config, task.source_dictionary, cls.variant))
        if model.carries and isinstance(task, FairseqTask) and not hasattr(task, "carried"):
            raise SettingError(
                f"{type(task).__name__} forgets cache and carried memory after every segment: choose --task "
                "streaming_language_modeling, or a model without them (--mem-len 0, --memory-placement front)"
            )
        return model

    def train(self, mode: bool = True) -> "LanguageModel":
        """As usual, but quick where nothing changes: fairseq asks twice an update, and a walk through all modules takes
        as long as several layers."""
        return self if mode == self.training == self.decoder.training else super().train(mode)

    def set_num_updates(self, num_updates: int) -> None:
        """Nothing here changes with the number of updates. (fairseq would look for it in every module.)"""

    @property
    def mem_len(self) -> int:
        """Rows that each layer caches."""
        return self.decoder.mem_len

    @property
    def carries(self) -> bool:
        """Whether a segment leaves anything for the next one."""
        return bool(self.mem_len) or self.decoder.carries_memory

    def places(self, target: Tensor) -> list[Tensor]:
        """target B x T. What `nll` needs to know of it, and best knows before the GPU has the model's work to do."""
        return self.decoder.vocabulary.places(self._words(target))

    def nll(self, features: Tensor, target: Tensor, places: list[Tensor] | None = None) -> Tensor:
        """features B x T x C, target B x T. Negative log-likelihoods in nats, 0 where target is `<pad>`: float32."""
        losses = self.decoder.vocabulary.nll(features.flatten(0, 1), self._words(target), places)
        return losses.view_as(target) * (target >= self.decoder.first_word)

    def _words(self, target: Tensor) -> Tensor:
        return (target - self.decoder.first_word).clamp(min=0).flatten()

    def set_context(
        self, mem_len: int | None = None, clamp_len: int | None = None, same_length: bool | None = None
    ) -> None:
        """Change what is cached, for evaluation; None leaves a setting. Raises SettingError for what cannot work.

        With `same_length`, every row sees the `mem_len` rows up to itself, memory between them counted, and not its
        segment on top.
        """
        decoder = self.decoder
        if mem_len and not self.mem_len:
            raise SettingError(f"a cache of {mem_len} rows: this model was trained without one (--mem-len 0)")
        if min(mem_len or 0, clamp_len or 0) < 0:
            raise SettingError(f"a cache of {mem_len} rows, distances up to {clamp_len}: expected 0 or more")
        mem_len = decoder.mem_len if mem_len is None else mem_len
        same_length = decoder.same_length if same_length is None else same_length
        if same_length and not mem_len:
            raise SettingError("the same number of rows for all: how many? It is that of a cache, and there is none")
        decoder.mem_len, decoder.same_length = mem_len, same_length
        decoder.positions.clamp_len = decoder.positions.clamp_len if clamp_len is None else clamp_len

    def segments_of_state(self, tokens: int) -> int:
        """How many segments of `tokens` tokens bring back the state of a text that is entered in its middle.

        The cache reaches back `mem_len` rows in each layer. Carried memory never ends; ten segments are taken for it.
        """
        cached = self.decoder.cfg.decoder_layers * -(-self.mem_len // tokens)
        return max(cached, 10 * self.decoder.carries_memory)


def _register(name: str, variant: Variant, *own: type[FairseqDataclass]) -> None:
    """Make a language model known to fairseq, also in every preset size."""
    dataclass = make_dataclass(f"{name}_options", [], bases=(*own, TransformerXLOptions))
    model = type(name, (LanguageModel,), {"variant": variant, "__module__": __name__})
    register_model(name, dataclass=dataclass)(model)
    for size, preset in LANGUAGE_MODELING.items():
        arch = f"{name}_{size}"
        register_model_architecture(name, arch)(preset_setter(preset))
        node = asdict(dataclass()) | preset | {"_name": name}
        ConfigStore.instance().store(arch, node, group="model", provider="memtrans_fairseq")


_register("transformer_xl", VARIANTS["mem"])
for _variant in VARIANTS.values():
    _register(f"{_variant.name}_transformer_lm", _variant, _variant.options, LanguageMemoryOptions)
