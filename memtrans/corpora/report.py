"""Show what a prepared corpus holds and what was dropped, and why."""

from typing import Any

from rich.console import Console
from rich.table import Table

from memtrans.corpora.clean import REASONS
from memtrans.corpora.prepare import Prepared


def show(prepared: Prepared, console: Console | None = None) -> None:
    """Print the manifest's counts by split.

    Of sentence pairs, pairs and subword tokens, then training pairs dropped by reason; of running text, lines, words
    and tokens.
    """
    console = console or Console()
    (_show_text if prepared.manifest.get("task") == "language_modeling" else _show_pairs)(prepared.manifest, console)
    console.print(f"in {prepared.path}", soft_wrap=True, highlight=False)


def _show_text(manifest: dict[str, Any], console: Console) -> None:
    title = f"{manifest['corpus']}, a vocabulary of {manifest['vocabulary']:,} {manifest['unit']}s"
    caption = "words and tokens with one end-of-line a line; unknown: tokens that the vocabulary lacks"
    table = Table("split", title=title, caption=caption)
    units = ("lines", "words", "tokens", "unknown")
    for unit in units:
        table.add_column(unit, justify="right")
    for split, counts in manifest["splits"].items():
        table.add_row(split, *(f"{counts[unit]:,}" for unit in units))
    console.print(table)


def _show_pairs(manifest: dict[str, Any], console: Console) -> None:
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
