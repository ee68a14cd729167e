"""Show what a prepared corpus holds and what was dropped, and why."""

from rich.console import Console
from rich.table import Table

from memtrans.corpora.clean import REASONS
from memtrans.corpora.prepare import Prepared


def show(prepared: Prepared, console: Console | None = None) -> None:
    """Print the manifest's counts: pairs and subword tokens by split, then training pairs dropped by reason."""
    console = console or Console()
    manifest = prepared.manifest
    languages = manifest["source_lang"], manifest["target_lang"]
    table = Table("split", title=f"{manifest['corpus']} {'-'.join(languages)}, {manifest['vocabulary']:,} subwords")
    for column in ("pairs kept", "dropped", *(f"{language} tokens" for language in languages)):
        table.add_column(column, justify="right")
    for split, counts in manifest["splits"].items():
        numbers = (counts["pairs"], sum(counts["dropped"].values()), counts["source_tokens"], counts["target_tokens"])
        table.add_row(split, *(f"{number:,}" for number in numbers))
    console.print(table)
    if dropped := manifest["splits"]["train"]["dropped"]:
        reasons = Table("dropped from train", "because")
        reasons.add_column("pairs", justify="right")
        for reason, pairs in dropped.items():
            reasons.add_row(reason, REASONS[reason], f"{pairs:,}")
        console.print(reasons)
    console.print(f"in {prepared.path}", soft_wrap=True, highlight=False)
