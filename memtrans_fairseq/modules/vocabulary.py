"""Tied input and output embeddings of a large vocabulary: adaptive softmax and adaptive input in one module.

Grave et al. 2017 and Baevski & Auli 2019, laid out as in Transformer-XL, so that parameter counts agree.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class TiedVocabulary(nn.Module):
    """`size` words by falling frequency, in parts that end at the `cutoffs`, seen as embeddings and as a softmax.

    The first part stands in the head of the softmax, each other one behind one entry of it, its cluster. Words of part
    p have channels / div_value^p channels, and a projection, shared by input and output, where that is fewer.
    Without cutoffs this is an ordinary softmax with tied weights. Embeddings are scaled by sqrt(channels).
    """

    def __init__(self, size: int, channels: int, cutoffs: list[int], div_value: int = 1) -> None:
        super().__init__()
        self.bounds = [0, *cutoffs, size]
        self.scale = channels**0.5
        parts = len(self.bounds) - 1
        # with words of equal width one matrix serves all parts: embedding is one look-up
        self.whole = div_value == 1
        sizes = (
            [size] if self.whole else [end - start for start, end in zip(self.bounds, self.bounds[1:], strict=False)]
        )
        widths = [channels // div_value**part for part in range(len(sizes))]
        self.weights = nn.ParameterList(torch.empty(n, width) for n, width in zip(sizes, widths, strict=True))
        narrow = [] if self.whole else widths
        self.projections = nn.ParameterList(torch.empty(channels, width) for width in narrow)
        self.bias = nn.Parameter(torch.empty(size))
        if parts > 1:
            self.cluster_weight = nn.Parameter(torch.empty(parts - 1, widths[0]))
            self.cluster_bias = nn.Parameter(torch.empty(parts - 1))

    @property
    def _parts(self) -> list[tuple[int, int]]:
        """First word, and the one after the last, of each part."""
        return list(zip(self.bounds, self.bounds[1:], strict=False))

    def embed(self, words: Tensor) -> Tensor:
        """words B x T. Returns B x T x C."""
        if self.whole:
            return self.scale * F.embedding(words, self.weights[0])
        embedded = words.new_zeros(*words.shape, self.projections[0].size(0), dtype=self.weights[0].dtype)
        for part, (start, end) in enumerate(self._parts):
            chosen = (words >= start) & (words < end)
            rows = F.embedding(words[chosen] - start, self.weights[part])
            projected = F.linear(rows, self.projections[part])
            embedded = embedded.to(projected.dtype).masked_scatter(chosen.unsqueeze(-1), projected)
        return self.scale * embedded

    def nll(self, features: Tensor, words: Tensor) -> Tensor:
        """features N x C, words N. Returns the negative log-likelihood of each word in nats: N, float32."""
        # in the head, a word of part p > 0 is represented by its cluster, after the words of part 0
        parts = self._parts
        first = parts[0][1]
        in_head = words.clone()
        for part, (start, end) in enumerate(parts[1:]):
            in_head[(words >= start) & (words < end)] = first + part
        losses = F.cross_entropy(self._logits(features, 0).float(), in_head, reduction="none")
        for part, (start, end) in enumerate(parts[1:], start=1):
            chosen = ((words >= start) & (words < end)).nonzero().squeeze(-1)
            logits = self._logits(features[chosen], part).float()
            losses = losses.index_add(0, chosen, F.cross_entropy(logits, words[chosen] - start, reduction="none"))
        return losses

    def log_probabilities(self, features: Tensor) -> Tensor:
        """features ... x C. Returns the log-probability of every word: ... x size, float32."""
        head = self._logits(features, 0).float().log_softmax(dim=-1)
        first, found = self.bounds[1], [head[..., : self.bounds[1]]]
        for part in range(1, len(self.bounds) - 1):
            cluster = head[..., first + part - 1 : first + part]
            found.append(cluster + self._logits(features, part).float().log_softmax(dim=-1))
        return torch.cat(found, dim=-1)

    def _logits(self, features: Tensor, part: int) -> Tensor:
        """Of the words of a part, and for the head of the clusters after them."""
        start, end = self._parts[part]
        weight = self.weights[0][start:end] if self.whole else self.weights[part]
        bias = self.bias[start:end]
        if part == 0 and len(self.bounds) > 2:
            weight, bias = torch.cat([weight, self.cluster_weight]), torch.cat([bias, self.cluster_bias])
        if not self.whole:
            features = F.linear(features, self.projections[part].T)
        return F.linear(features, weight, bias)
