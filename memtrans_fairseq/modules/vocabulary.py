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
        # every part looks up all words: to choose those that belong to it would wait for the GPU
        found = []
        for part, ((start, end), weight) in enumerate(zip(self.parts, self.weights, strict=True)):
            rows = F.embedding((words - start).clamp(0, end - start - 1), weight)
            if self.projections:
                rows = F.linear(rows, self.projections[part])
            if len(self.parts) > 1:
                rows = rows * ((words >= start) & (words < end)).unsqueeze(-1)
            found.append(rows)
        return self.scale * sum(found[1:], found[0])

    def places(self, words: Tensor) -> list[Tensor]:
        """words N. Returns, for each part but the first, which of the N belong to it. Waits for the GPU, once."""
        if len(self.parts) == 1:
            return []
        starts = torch.tensor([start for start, _ in self.parts[1:]], device=words.device)
        part = torch.bucketize(words, starts, right=True)
        counts = (part == torch.arange(len(self.parts), device=words.device).unsqueeze(1)).sum(dim=1)
        return list(part.argsort(stable=True).split(counts.tolist())[1:])

    def nll(self, features: Tensor, words: Tensor, places: list[Tensor] | None = None) -> Tensor:
        """features N x C, words N. Returns the negative log-likelihood of each word in nats: N, float32.

        `places` are those of the words, if they are known already.
        """
        # in the head, a word of part p > 0 is represented by its cluster, after the words of part 0
        (_, first), *others = self.parts
        in_head = words
        for part, (start, end) in enumerate(others):
            in_head = in_head.where((words < start) | (words >= end), first + part)
        losses = F.cross_entropy(self._logits(features, 0).float(), in_head, reduction="none")
        for part, chosen in enumerate(self.places(words) if places is None else places, start=1):
            start, _ = self.parts[part]
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
