"""Fetch one published file from the downloads folder, a mirror folder or its URLs, in this order; always verified.

A file is named by its size and sha256; where the bytes come from does not matter. A broken download continues where it
broke off, also in a later process and from another URL.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests

from memtrans.errors import UserError
from memtrans.files import abandoned, adopt, checksum
from memtrans.locks import locked
from memtrans.progress import say, transfer

MIRROR = "MEMTRANS_MIRROR"  # environment variable: a folder that is tried before the network
TIMEOUT = (15, 60)  # seconds: to connect, and between two packets
BLOCK = 1 << 14  # bytes; small, because a connection that breaks loses the block it is in


@dataclass(frozen=True)
class Remote:
    """A published file: its name, what identifies it, and where it may be found."""

    corpus: str
    name: str
    bytes: int
    sha256: str
    urls: tuple[str, ...]
    mirror: str  # folder under MEMTRANS_MIRROR in which the file usually lives


class _Mismatch(Exception):
    """A file is not the published one: the message says how it differs."""


def at_hand(remote: Remote, downloads: Path) -> Path | None:
    """Where the verified file already lies on this machine, or None. Never touches the network.

    A mirror's file is used in place. A wrong one there is reported and passed over; a wrong one in `downloads` is an
    error, because it is the user's to delete.
    """
    own = downloads / remote.name
    if own.exists():
        try:
            _verify(own, remote)
        except _Mismatch as mismatch:
            raise UserError(f"{own} is not the published file: {mismatch}; delete it and run again") from None
        return own
    for path in _mirrored(remote):
        if not path.is_file():
            continue
        try:
            _verify(path, remote)
        except _Mismatch as mismatch:
            say(f"passing over {path}: {mismatch}")
            continue
        return path
    return None


def missing_bytes(remote: Remote, downloads: Path) -> int:
    """What a download would still bring, after what had arrived of a broken one."""
    part = downloads / f"{remote.name}.part"
    return max(remote.bytes - max(map(_size, [part, *abandoned(part)])), 0)


def fetch(remote: Remote, downloads: Path) -> Path:
    """Return the verified file's path, downloading it into `downloads` if it is not at hand.

    Raises UserError naming each URL and what went wrong there. What had arrived of a broken download stays as
    `<name>.part` and is continued next time; wrong bytes are removed.
    """
    target = downloads / remote.name
    with locked(downloads / f".{remote.name}.lock", f"the download of {remote.name}"):
        if path := at_hand(remote, downloads):
            return path
        with _part(downloads / f"{remote.name}.part") as part:
            reasons = []
            for url in remote.urls:
                try:
                    _download_verified(url, part, remote)
                except (requests.RequestException, _Mismatch) as error:
                    reasons.append(f"{url}: {_brief(error)}")
                    say(f"cannot use {reasons[-1]}")
                    continue
                except OSError as error:
                    raise UserError(f"cannot write {part}: {error.strerror}; then run again") from error
                os.replace(part, target)
                return target
    advice = f"try again later, or put the file into {downloads} or the folder that {MIRROR} names"
    raise UserError(f"cannot fetch {remote.name} ({'; '.join(reasons) or 'it has no URL'}); {advice}")


@contextmanager
def _part(name: Path) -> Iterator[Path]:
    """What there is of a broken download, for this process alone; what is left of it afterwards is again `name`."""
    part = adopt(name)
    try:
        yield part
    finally:
        if part.exists():
            os.replace(part, name)


def _mirrored(remote: Remote) -> list[Path]:
    if not (root := os.environ.get(MIRROR)):
        return []
    folders = dict.fromkeys([Path(root) / remote.mirror, Path(root) / remote.corpus, Path(root)])
    return [folder / remote.name for folder in folders]


def _verify(path: Path, remote: Remote) -> None:
    if (size := path.stat().st_size) != remote.bytes:
        raise _Mismatch(f"it has {size} bytes, expected {remote.bytes}")
    if (digest := checksum(path)["sha256"]) != remote.sha256:
        raise _Mismatch(f"wrong checksum: its sha256 is {digest}, expected {remote.sha256}")


def _download_verified(url: str, part: Path, remote: Remote) -> None:
    """Complete `part` from `url` and verify it. If bytes of an earlier attempt were bad, start afresh, once."""
    continued = part.exists()
    try:
        _download(url, part, remote)
        _verify(part, remote)
    except _Mismatch:
        part.unlink(missing_ok=True)
        if not continued:
            raise
        _download_verified(url, part, remote)


def _download(url: str, part: Path, remote: Remote) -> None:
    """Stream `url` into `part`, reconnecting for the rest as long as every attempt brings new bytes."""
    while (have := _size(part)) < remote.bytes:
        try:
            _stream(url, part, remote, have)
        except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError):
            if _size(part) <= have:
                raise


def _stream(url: str, part: Path, remote: Remote, have: int) -> None:
    # identity: the published bytes, not what a server makes of them on the way
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        if response.status_code == requests.codes.requested_range_not_satisfiable:
            raise _Mismatch(f"the server has no byte {have} of it")
        response.raise_for_status()
        done = have if response.status_code == requests.codes.partial_content else 0
        coming = response.headers.get("Content-Length")
        if coming is not None and done + int(coming) != remote.bytes:
            raise _Mismatch(f"the server offers {done + int(coming)} bytes, expected {remote.bytes}")
        with part.open("ab" if done else "wb") as file, transfer(remote.name, remote.bytes, done) as advance:
            for block in response.iter_content(BLOCK):
                file.write(block)
                advance(len(block))
                if file.tell() > remote.bytes:
                    raise _Mismatch(f"the server sends more than the expected {remote.bytes} bytes")
    if _size(part) != remote.bytes:
        raise requests.ConnectionError("the connection ended early")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _brief(error: Exception) -> str:
    """One line: requests wraps the reason in layers of text."""
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"HTTP status {error.response.status_code}"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection broke off"
    if isinstance(error, _Mismatch):
        return str(error)
    reason = str(error).rsplit(": ", 1)[-1].rstrip("')\"")
    return reason + ")" * (reason.count("(") - reason.count(")"))
