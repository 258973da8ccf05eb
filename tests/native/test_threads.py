"""Where threads cannot be started, fewer threads give the same results; where there is no memory, there is a Python exception."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from rwkvquant.kernels import workshop

MODEL = Path(__file__).parents[1] / "data" / "rwkv7-tiny-rtn4.safetensors"

LIMITED = """
import os, resource
import numpy as np
from rwkvquant.kernels import workshop
def centroids(groups, n, k):
    x = np.sort(np.random.default_rng(0).standard_normal((groups, n)), axis=1)
    p = np.ones((groups, n))
    return lambda threads: workshop.exact_kmeans(x, p, k, None, threads)
small, large = centroids(640, 16, 4), centroids(8, 16384, 16)
want = small(1)
# PREPARE
used = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmSize:")) * 1024
resource.setrlimit(resource.RLIMIT_AS, (used + 4 * 2**20,) * 2)
"""


def limited(program: str, prepare: str = "") -> str:
    """What a process prints whose memory may grow by 4 MB after `prepare`: a thread's stack alone asks for 8."""
    if not sys.platform.startswith("linux"):
        pytest.skip("needs Linux: its limits of address space")
    path = os.pathsep.join(entry for entry in sys.path if entry)
    environment = {**os.environ, "PYTHONPATH": path}
    result = subprocess.run(
        [sys.executable, "-c", LIMITED.replace("# PREPARE", prepare) + program],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, f"{result.returncode}: {result.stderr}"
    return result.stdout.strip()


def test_where_no_thread_can_be_started_the_caller_works_alone() -> None:
    program = "print((small(16) == want).all(), len(os.listdir('/proc/self/task')) == tasks)"
    assert limited("tasks = len(os.listdir('/proc/self/task'))\n" + program) == "True True"


def test_a_model_says_how_many_threads_it_really_has() -> None:
    """Asked for 16 where no thread can be started, it has 1, and the same logits."""
    prepare = f"from rwkvquant.runtime.session import load\npath = {str(MODEL)!r}\n"
    prepare += "two = load(path, threads=2, pages='map')\nlogits = two.forward([1, 5, 9])[0]"
    program = (
        "alone = load(path, threads=16, pages='map')\nprint(two.threads, alone.threads, (alone.forward([1, 5, 9])[0] == logits).all())"
    )
    assert limited(program, prepare) == "2 1 True"


def test_missing_memory_is_a_python_exception() -> None:
    """The working space of one thread is 22 MB, and 4 are left. The process continues."""
    said = limited("try:\n    large(2)\nexcept MemoryError as error:\n    print(error)\nassert (small(2) == want).all()")
    assert said == "[exact_kmeans] there is no memory for the working space of 2 threads; try fewer"


def test_python_threads_may_quantise_at_the_same_time_with_any_number_of_threads() -> None:
    rng = np.random.default_rng(0)
    x, p = np.sort(rng.standard_normal((320, 24)), axis=1), rng.exponential(size=(320, 24))
    want = workshop.exact_kmeans(x, p, 4, None, 1)
    results: list[object] = []

    def quantize(threads: int) -> None:
        for _ in range(20):
            results.append(workshop.exact_kmeans(x, p, 4, None, threads))

    callers = [threading.Thread(target=quantize, args=(threads,)) for threads in (2, 3, 7, 1000)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(results) == 80 and all(np.array_equal(each, want) for each in results)


def test_a_forked_process_quantises_too() -> None:
    if not hasattr(os, "fork"):
        pytest.skip("needs fork")
    x, p = np.sort(np.random.default_rng(0).standard_normal((320, 24)), axis=1), np.ones((320, 24))
    want = workshop.exact_kmeans(x, p, 4, None, 2)
    child = os.fork()
    if child == 0:
        os._exit(0 if np.array_equal(workshop.exact_kmeans(x, p, 4, None, 2), want) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
