"""What a run says while it trains, and who listens.

The training process does one thing: its first rank appends fairseq's numbers to `runs/<hash>/metrics.jsonl`. W&B and
TensorBoard are fed from that file by another process, so that nothing that happens to them, no hang, crash or full
queue, reaches the training; and the same code makes them again from the file of any run (`scripts.track`). Pictures of
attention are drawn from `runs/<hash>/attention.json`, which the worker leaves when the run has its record. No torch is
imported here.
"""

from memtrans.tracking.live import Metrics, tracked

__all__ = ["Metrics", "tracked"]
