"""Corpora: from a config and the published archives (or the user's own files) to data that fairseq trains on.

Rooms, in the order of the work: `sources` (which files), `fetch` (verified downloads), `extract` (archives), `text`
(reading lines and pairs), `clean`, `vocabulary` and `words`, `binarise` (in several processes: `parallel`); `prepare`
runs them, each at most once. What a corpus of sentence pairs and one of running text do differently is in `translation`
and `language_modeling`. No step holds a whole text: memory does not grow with the corpus.
"""

from memtrans.corpora.prepare import Prepared, foresee, pending_downloads, prepare
from memtrans.corpora.report import show
from memtrans.corpora.text import read_lines

__all__ = ["Prepared", "foresee", "pending_downloads", "prepare", "read_lines", "show"]
