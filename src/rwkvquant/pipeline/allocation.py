"""Give free memory back to the system between two phases of a job.

glibc gives back only the free memory at the end of its heap. One small array that stays alive keeps a gigabyte of freed arrays below it
in the process, and the next phase, with arrays of other sizes, asks for more. Other C libraries are left alone.
"""

from __future__ import annotations

import ctypes


def give_back() -> None:
    """Give back the free memory that malloc holds, also in the middle of the heap."""
    try:
        trim = ctypes.CDLL("libc.so.6").malloc_trim
    except (OSError, AttributeError):
        return
    trim.argtypes = [ctypes.c_size_t]
    trim(0)
