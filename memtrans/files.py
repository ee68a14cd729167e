"""Small things about files that every step shares: atomic folders and files, checksums.

What others may read appears under its name by renaming within its folder: it is absent or complete, also for readers
on other hosts of a network file system. Until then it has a name that says which process of which host works on it, so
even two processes that do the same work, on a file system without locks, do not meet.
"""

import errno
import glob
import hashlib
import json
import os
import secrets
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from memtrans.errors import UserError

FORGOTTEN = 24 * 3600.0  # seconds without a change after which another host's unfinished work counts as given up


def existing_folder(text: str) -> Path:
    """An argument that names a folder. Raises UserError if there is none."""
    if not (folder := Path(text)).is_dir():
        raise UserError(f"{text}: no such folder; call from the project's own folder, or name another (see --help)")
    return folder


def private(path: Path) -> Path:
    """The name under which this process works on what will be `path`."""
    return path.with_name(f"{path.name}@{socket.gethostname()}-{os.getpid()}.tmp")


def abandoned(path: Path) -> list[Path]:
    """What is left under the private names of processes that are gone."""
    return [left for left in path.parent.glob(f"{glob.escape(path.name)}@*-*.tmp") if _is_abandoned(left, path.name)]


def _is_abandoned(left: Path, name: str) -> bool:
    host, _, process = left.name.removeprefix(f"{name}@").removesuffix(".tmp").rpartition("-")
    try:
        if host == socket.gethostname():
            os.kill(int(process), 0)
            return False
        return time.time() - left.stat().st_mtime > FORGOTTEN
    except ProcessLookupError:
        return True
    except (OSError, ValueError):  # another user's process, or no name of ours
        return False


def adopt(path: Path) -> Path:
    """The private name for `path`, with what an earlier process left there, if it did. It need not exist."""
    mine = private(path)
    for left in [path, *abandoned(path)]:
        try:
            os.rename(left, mine)
        except OSError:  # there is none, or another process was first
            continue
        break
    return mine


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes `path` when the block succeeds, and vanishes when it fails.

    If `path` has appeared meanwhile, by a process that did the same, that one stays.
    """
    for left in abandoned(path):
        shutil.rmtree(left, ignore_errors=True)
    temporary = private(path)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                _to_disk(file)  # a host that dies after the renaming must not leave a folder of empty files
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    try:
        os.rename(temporary, path)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, making its folder if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # the random part keeps two processes that write the same file apart
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        temporary.write_bytes(content)
        _to_disk(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text, as it stands, whole or not at all."""
    write_bytes(path, text.encode())


def write_json(path: Path, content: Any) -> None:
    """Write `content` as indented JSON, whole or not at all."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def checksum(path: Path) -> dict[str, Any]:
    """Size and sha256 of a file: {"bytes": int, "sha256": 64 hex digits}."""
    try:
        with path.open("rb") as file:
            return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
