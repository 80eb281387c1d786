"""Tells whether a path lies on a network file system, where SQLite's WAL and file locks can't be trusted."""

import os
from pathlib import Path

_NETWORK = (
    *("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "virtiofs", "afs"),
    *("lustre", "ceph", "gpfs", "beegfs", "orangefs", "pvfs2", "wekafs", "panfs", "glusterfs", "ocfs2", "gfs2"),
)
_MOUNTS = Path("/proc/self/mountinfo")


def network_file_system(path: Path, mountinfo: str | None = None) -> str | None:
    """Return the type of the network file system that holds `path`, or None for a local one or where that is unknown.

    FUSE counts as network, because what is behind it is unknown.

    Args:
        path: need not exist.
        mountinfo: the text of `/proc/self/mountinfo`, read from there by default.
    """
    if mountinfo is None:
        try:
            mountinfo = _MOUNTS.read_text(errors="surrogateescape")
        except OSError:
            return None
    place = os.path.realpath(path)
    longest, found = "", ""
    for line in mountinfo.splitlines():
        before, separator, after = line.partition(" - ")
        fields = before.split()
        if not separator or len(fields) < 5 or not after.split():
            continue
        point = fields[4].encode("utf-8", "surrogateescape").decode("unicode_escape")  # a space is \\040
        is_above = place == point or place.startswith(point.rstrip("/") + "/")
        if is_above and len(point) >= len(longest):  # of two at one point the later is seen
            longest, found = point, after.split()[0]
    return found if found in _NETWORK or found.startswith("fuse") else None
