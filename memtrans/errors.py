"""How the harness fails: one clear line, a non-zero exit, no traceback for what a user can mend."""

import errno
import functools
import sys
from collections.abc import Callable, Iterable
from difflib import get_close_matches


class UserError(Exception):
    """A failure the user can mend. The message is one line: what is wrong, where, what was expected, what to do."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A clause that names the nearest known names, or all of them if none is near."""
    names = sorted(known)
    near = get_close_matches(name, names, n=3)
    return f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(names)}"


def told(error: OSError) -> str:
    """Which file the system could not read or write, and why, in one line."""
    return f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror or error)


def main_guard(function: Callable[..., None]) -> Callable[..., None]:
    """Decorate an entry point: a `UserError` becomes one line on standard error and exit status 1, Ctrl-C 130.

    So does what the system says of a file: that it is not there or not to be written, or that the disk is full.
    """

    @functools.wraps(function)
    def guarded(*args: object, **kwargs: object) -> None:
        try:
            function(*args, **kwargs)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(1)
        except OSError as error:
            if not error.filename and error.errno != errno.ENOSPC:
                raise
            print(f"error: {told(error)}", file=sys.stderr)
            sys.exit(1)
        except KeyboardInterrupt:
            print("interrupted; the same command continues", file=sys.stderr)
            sys.exit(130)

    return guarded
