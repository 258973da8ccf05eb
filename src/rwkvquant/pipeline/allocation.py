"""Free memory that goes back to the system between one phase of a job and the next.

glibc gives back only what is free at the end of its heap: below one small array that lasts, a gigabyte of large ones that came and went
stays with the process, and the next phase, with arrays of other sizes, asks for more. Other C libraries are left as they are.
"""

from __future__ import annotations

import ctypes


def give_back() -> None:
    """Free what malloc holds, in the middle of the heap too."""
    try:
        trim = ctypes.CDLL("libc.so.6").malloc_trim
    except (OSError, AttributeError):
        return
    trim.argtypes = [ctypes.c_size_t]
    trim(0)
