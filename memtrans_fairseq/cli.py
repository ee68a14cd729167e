"""The console command `memtrans-fairseq`: fairseq's own commands, with fairseq cured and the memory models registered.

`memtrans-fairseq train ...` takes what `fairseq-train ...` takes, and so on. fairseq's own launchers cannot serve, as
they import fairseq before they read `--user-dir`.
"""

import importlib
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

COMMANDS = {
    "preprocess": "build dictionaries and binarise text",
    "train": "train a model",
    "validate": "compute the loss of a trained model on a data set",
    "generate": "translate binarised text with a trained model",
    "interactive": "translate lines of raw text with a trained model",
    "score": "compute BLEU of a file of translations",
    "eval-lm": "compute the perplexity of a language model",
    "hydra-train": "train a model that is configured with Hydra",
}
PROGRAM = "memtrans-fairseq"
USAGE = f"usage: {PROGRAM} COMMAND [OPTION ...]\n\nfairseq with the memory models. Commands:\n" + "".join(
    f"  {name:<12} {what}\n" for name, what in COMMANDS.items()
)


def asks_for_usage(argv: Sequence[str]) -> bool:
    """Whether `argv` is that of a process which is our console command, only to print its usage."""
    return bool(argv) and Path(argv[0]).name == PROGRAM and argv[1:] in ([], ["-h"], ["--help"])


def main(argv: list[str] | None = None) -> None:
    """Run one command, `argv[0]`, with fairseq's options `argv[1:]`; by default those of this process.

    Without `argv`, as the console command, what a user can mend ends with one line on standard error and status 1;
    with `argv` it is raised (`compat.UnsafeCheckpoint`, `variants.SettingError`). An unknown command exits with 2.
    """
    command, *options = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if command in ("-h", "--help"):
        print(USAGE + f"\nOptions of a command: {PROGRAM} COMMAND --help")
        return
    if command not in COMMANDS:
        near = get_close_matches(command, COMMANDS, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(COMMANDS)}"
        print(f"{PROGRAM}: unknown command {command!r}; {hint}", file=sys.stderr)
        sys.exit(2)
    if argv is not None:
        _run(command, options)
        return

    from memtrans_fairseq.compat import UnsafeCheckpoint
    from memtrans_fairseq.variants import SettingError

    try:
        _run(command, options)
    except (UnsafeCheckpoint, SettingError) as error:
        sys.exit(f"{PROGRAM} {command}: {error}")


def _run(command: str, options: list[str]) -> None:
    from memtrans_fairseq import compat

    compat.no_cudnn_attention()
    ours = sys.argv
    # fairseq and Hydra read sys.argv themselves; argparse shows the first word in its usage line.
    sys.argv = [f"{PROGRAM} {command}", *options]
    try:
        with compat.quiet():
            importlib.import_module(f"fairseq_cli.{command.replace('-', '_')}").cli_main()
    finally:
        sys.argv = ours
