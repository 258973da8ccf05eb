"""What often lies where a download should be: a pointer of Git LFS, or a web page. Every reader asks here before it says what is wrong."""

from __future__ import annotations

HEAD_BYTES = 512
LFS_POINTER = b"version https://git-lfs.github.com/spec/"


def stand_in(head: bytes) -> str | None:
    """A sentence about a file that begins with these bytes (HEAD_BYTES are enough), or None if it may be the real one."""
    if head.startswith(LFS_POINTER):
        return "this is a pointer of Git LFS, not the file itself; fetch the file with: git lfs pull"
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return "this is a web page (HTML), not the file itself; download the file again, from the link that gives its content"
    return None
