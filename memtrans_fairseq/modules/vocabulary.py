"""Tied input and output embeddings of a large vocabulary: adaptive softmax and adaptive input in one module.

Grave et al. 2017 and Baevski & Auli 2019, laid out as in Transformer-XL, so that parameter counts agree.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .aligned import filling, linear


class TiedVocabulary(nn.Module):
    """`size` words by falling frequency, in parts that end at the `cutoffs`, seen as embeddings and as a softmax.

    The first part stands in the head of the softmax, each other one behind one entry of it, its cluster. Words of part
    p have channels / div_value^p channels, and a projection, shared by input and output, unless all are alike.
    Without cutoffs this is an ordinary softmax with tied weights. Embeddings are scaled by sqrt(channels).
    """

    def __init__(self, size: int, channels: int, cutoffs: list[int], div_value: int = 1) -> None:
        super().__init__()
        bounds = [0, *cutoffs, size]
        self.parts = list(zip(bounds, bounds[1:], strict=False))  # first word, and the one after the last, of each
        self.scale = channels**0.5
        widths = [channels // div_value**part for part in range(len(self.parts))]
        self.weights = nn.ParameterList(
            torch.empty(end - start, width) for (start, end), width in zip(self.parts, widths, strict=True)
        )
        self.projections = nn.ParameterList(torch.empty(channels, width) for width in widths if div_value != 1)
        self.bias = nn.Parameter(torch.empty(size))
        if cutoffs:
            self.cluster_weight = nn.Parameter(torch.empty(len(cutoffs), widths[0]))
            self.cluster_bias = nn.Parameter(torch.empty(len(cutoffs)))

    def embed(self, words: Tensor) -> Tensor:
        """words B x T. Returns B x T x C."""
        if not self.projections:
            weight = torch.cat(list(self.weights)) if len(self.weights) > 1 else self.weights[0]
            return self.scale * F.embedding(words, weight)
        embedded = self.projections[0].new_zeros(*words.shape, self.projections[0].size(0))
        for (start, end), weight, projection in zip(self.parts, self.weights, self.projections, strict=True):
            chosen = (words >= start) & (words < end)
            rows = F.linear(F.embedding(words[chosen] - start, weight), projection)
            embedded = embedded.to(rows).masked_scatter(chosen.unsqueeze(-1), rows)
        return self.scale * embedded

    def nll(self, features: Tensor, words: Tensor) -> Tensor:
        """features N x C, words N. Returns the negative log-likelihood of each word in nats: N, float32."""
        # in the head, a word of part p > 0 is represented by its cluster, after the words of part 0
        (_, first), *others = self.parts
        in_head = words
        for part, (start, end) in enumerate(others):
            in_head = in_head.where((words < start) | (words >= end), first + part)
        losses = F.cross_entropy(self._logits(features, 0).float(), in_head, reduction="none")
        for part, (start, end) in enumerate(others, start=1):
            chosen = ((words >= start) & (words < end)).nonzero().squeeze(-1)
            logits = self._logits(features[chosen], part).float()
            losses = losses.index_add(0, chosen, F.cross_entropy(logits, words[chosen] - start, reduction="none"))
        return losses

    def log_probabilities(self, features: Tensor) -> Tensor:
        """features ... x C. Returns the log-probability of every word: ... x size, float32."""
        (_, first), *others = self.parts
        head = self._logits(features, 0).float().log_softmax(dim=-1)
        found = [head[..., :first]]
        for part, (start, end) in enumerate(others, start=1):
            cluster = head[..., first + part - 1 : first + part]
            found.append(cluster + self._logits(features, part).float().log_softmax(dim=-1)[..., : end - start])
        return torch.cat(found, dim=-1)

    def _logits(self, features: Tensor, part: int) -> Tensor:
        """Of the words of a part, in the head of the clusters after them; perhaps more columns of -inf."""
        start, end = self.parts[part]
        weight, bias = self.weights[part], self.bias[start:end]
        if part == 0 and len(self.parts) > 1:
            weight, bias = torch.cat([weight, self.cluster_weight]), torch.cat([bias, self.cluster_bias])
        if self.projections:
            features = linear(features, self.projections[part].T)
        filled = filling(len(bias), features)
        return linear(features, F.pad(weight, (0, 0, 0, filled)), F.pad(bias, (0, filled), value=-math.inf))
