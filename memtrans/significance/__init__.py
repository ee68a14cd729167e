"""Is a difference more than chance? Paired tests over sentences, intervals over seeds and sentences, corrections.

`sentences` compares translations (sacreBLEU, needs the references); `evidence` keeps what it found in
`results/significance/`; `interval` turns differences by seed, and that evidence, into an interval and a p-value. The
last two need neither a corpus nor torch, so a report can be made from `results/` alone.
"""

from memtrans.significance.evidence import Comparison, load_comparisons
from memtrans.significance.interval import Difference, holm

__all__ = ["Comparison", "Difference", "holm", "load_comparisons"]
