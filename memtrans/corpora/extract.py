"""Take the needed members, and nothing else, out of a tar or zip archive. No path leaves the target folder.

Members are copied as streams to paths that were checked, so links, devices, owners and modes of an archive have no
effect. (tarfile's own filters do the same, but the first releases of Python 3.11 lack them.)
"""

import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from memtrans.errors import UserError
from memtrans.files import new_folder


def extract(archive: Path, members: list[str], target: Path) -> None:
    """Extract `members` (paths inside the archive) to `target/<member>`, atomically: `target` is absent or complete.

    Raises UserError if a member is missing, would land outside `target`, is not a regular file, or is damaged.
    """
    with new_folder(target) as folder:
        for member in members:
            if not (folder / member).resolve().is_relative_to(folder.resolve()):
                raise UserError(f"{archive}: member {member} would be written outside {target}; it is not safe")
        wanted = set(members)
        try:
            for name, source in (_unzip if zipfile.is_zipfile(archive) else _untar)(archive, wanted):
                path = folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                with source, path.open("wb") as sink:
                    shutil.copyfileobj(source, sink, 1 << 20)
                wanted.remove(name)
                if not wanted:  # a compressed tar is read from front to back: stop as soon as possible
                    break
        except (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, OSError) as error:
            raise UserError(f"cannot read {archive}: {error}; delete it and run again") from error
        if wanted:
            raise UserError(f"{archive} has no member {', '.join(sorted(wanted))}; is it the published archive?")


def _untar(archive: Path, wanted: set[str]) -> Iterator[tuple[str, IO[bytes]]]:
    with tarfile.open(archive) as tar:
        for entry in tar:
            name = str(PurePosixPath(entry.name))  # drops a leading "./"
            if name not in wanted:
                continue
            content = tar.extractfile(entry) if entry.isreg() else None
            if content is None:
                raise UserError(f"{archive}: member {name} is not a regular file; it is not safe")
            yield name, content


def _unzip(archive: Path, wanted: set[str]) -> Iterator[tuple[str, IO[bytes]]]:
    with zipfile.ZipFile(archive) as zipped:
        for entry in zipped.infolist():
            name = str(PurePosixPath(entry.filename))
            if name in wanted and not entry.is_dir():
                yield name, zipped.open(entry)
