"""The file system a folder is on, and whether its locks work: asked by the doctor, so the standard library must do."""

import fcntl
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

LOCAL_LOCKS = ("nolock", "local_lock=flock", "local_lock=all", "localflock")  # mount options of NFS and Lustre
LOCAL_TYPES = ("fuse.sshfs", "fuse.s3fs", "fuse.gcsfuse", "fuse.rclone")
TRY = "import fcntl, sys; fcntl.flock(open(sys.argv[1], 'ab'), fcntl.LOCK_EX | fcntl.LOCK_NB)"


def mount_of(folder: Path, mounts: str | None = None) -> tuple[str, list[str]]:
    """Type and options of the file system that `folder` is on. `mounts` is text as in /proc/self/mountinfo."""
    found, best = ("unknown", list[str]()), -1
    for line in (mounts or Path("/proc/self/mountinfo").read_text()).splitlines():
        before, _, after = (part.split() for part in line.partition(" - "))
        point = Path(re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), before[4]))
        if len(point.parts) >= best and folder.resolve().is_relative_to(point):  # of two on one point, the later
            found, best = (after[0], [*before[5].split(","), *after[2].split(",")]), len(point.parts)
    return found


def trouble_with_locks(folder: Path, mounts: str | None = None) -> str:
    """Why locks in `folder`, which can be written, do not keep processes of all hosts apart; empty if they do."""
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".lock-") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            return f"there are none: {os.strerror(error.errno or 0)}"
        tried = subprocess.run([sys.executable, "-c", TRY, file.name], capture_output=True, timeout=30)
    if tried.returncode == 0:
        return "two processes got the same one"
    kind, options = mount_of(folder, mounts)
    reasons = [kind] if kind in LOCAL_TYPES else [option for option in options if option in LOCAL_LOCKS]
    return f"they hold on this host only: {reasons[0]}" if reasons else ""
