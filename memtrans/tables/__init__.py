"""Tables of the records: grouped, compared with the same-seed baseline and the paper, rendered as Markdown.

`tables_text` is the one call most users need. Nothing heavy is imported: neither torch nor fairseq nor pandas.
"""

from pathlib import Path

from memtrans.records import load_all
from memtrans.sweeps_spec import load_sweeps
from memtrans.tables.markdown import render
from memtrans.tables.paper import load_paper
from memtrans.tables.rows import Row, Table, build_tables
from memtrans.tables.stats import Summary, summarise

__all__ = ["Row", "Summary", "Table", "build_tables", "load_paper", "render", "summarise", "tables_text"]


def tables_text(results: Path, configs: Path) -> str:
    """TABLES.md for the records and `paper.csv` of a folder of results and the sweeps of a folder of configs.

    A folder of results of one's own needs no `paper.csv`: its tables are read against nothing.
    """
    published = results / "paper.csv"
    paper = load_paper(published) if published.exists() else {}
    return render(build_tables(load_all(results / "records"), load_sweeps(configs), paper))
