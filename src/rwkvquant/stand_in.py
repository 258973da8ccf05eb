"""Files that are often saved in place of a download: a Git LFS pointer, or a web page. Every reader checks for them first."""

from __future__ import annotations

HEAD_BYTES = 512
LFS_POINTER = b"version https://git-lfs.github.com/spec/"


def stand_in(head: bytes) -> str | None:
    """A sentence about a file that begins with `head` (HEAD_BYTES are enough), or None if it may be the real file."""
    if head.startswith(LFS_POINTER):
        return "this is a Git LFS pointer, not the file itself; fetch the file with: git lfs pull"
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return "this is a web page (HTML), not the file itself; download the file again, from its download link"
    return None
