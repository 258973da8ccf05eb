"""Decoding with two threads while another process uses one of the two cores: `python benchmarks/uneven_cores.py FILE`.

Each thread is pinned to a core. In turn, the other process runs and does not run, with equal shares and with measured ones
(native/shares.h). The other process takes half of its core, so both cores could do 1.5 / 2 of the undisturbed speed, if nothing had to
wait. The aim is 85 % of that. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from roofline import conditions

from rwkvquant.runtime.engines.native import NativeEngine
from rwkvquant.runtime.session import load

LEFT = 1.5 / 2  # of both cores, beside the other process
AIM = 0.85


class Decoder:
    def __init__(self, file: Path, cpus: tuple[int, int], shares: str) -> None:
        os.environ["RWKVQUANT_SHARES"] = shares
        others = set(os.listdir("/proc/self/task"))
        self._model = load(file, threads=2)
        started = set(os.listdir("/proc/self/task")) - others
        for task in started:
            os.sched_setaffinity(int(task), {cpus[1]})
        os.sched_setaffinity(threading.get_native_id(), {cpus[0]})
        self._slots = self._model.slots(1)
        self._slot = self._slots.add()

    def tokens_per_second(self, seconds: float) -> float:
        count, started = 0, time.perf_counter()
        while time.perf_counter() - started < seconds:
            self._slots.forward({self._slot: [count % self._model.dims.vocab]})
            count += 1
        return count / (time.perf_counter() - started)

    @property
    def shares(self) -> list[float]:
        engine = self._model._engine
        assert isinstance(engine, NativeEngine)
        return engine.shares


@contextmanager
def busy_core(cpu: int) -> Iterator[None]:
    """Another process on this core, which never sleeps."""
    process = subprocess.Popen([sys.executable, "-c", f"import os; os.sched_setaffinity(0, {{{cpu}}})\nwhile True: pass"])
    try:
        time.sleep(0.2)
        yield
    finally:
        process.kill()
        process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path, help="a packed file, for example of rwkvquant bench --random x070-1.5b --output FILE")
    parser.add_argument("--seconds", type=float, default=2.0, help="of decoding, each time")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cpus", type=int, nargs=2, default=(0, 1), help="of the two threads; the other process runs on the second one")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()

    cpus = (given.cpus[0], given.cpus[1])
    decoders = {shares: Decoder(given.file, cpus, shares) for shares in ("equal", "measured")}
    for decoder in decoders.values():
        decoder.tokens_per_second(given.seconds / 2)
    rounds = []
    for _ in range(given.rounds):
        speeds = {}
        for shares, decoder in decoders.items():
            speeds[f"{shares}, alone"] = decoder.tokens_per_second(given.seconds)
            with busy_core(cpus[1]):
                speeds[f"{shares}, disturbed"] = decoder.tokens_per_second(given.seconds)
                print(shares, [round(share, 2) for share in decoder.shares], end=" ", flush=True)
            speeds[f"{shares}, afterwards"] = decoder.tokens_per_second(given.seconds)
        rounds.append(speeds)
        print({kind: round(speed, 1) for kind, speed in speeds.items()}, flush=True)

    # relative to the undisturbed speed of the same round
    result = {}
    for kind in rounds[0]:
        undisturbed = [max(speeds["equal, alone"], speeds["measured, alone"]) for speeds in rounds]
        result[kind] = statistics.median(speeds[kind] / alone for speeds, alone in zip(rounds, undisturbed, strict=True))
        print(f"{kind:22} {statistics.median(speeds[kind] for speeds in rounds):7.1f} tok/s {result[kind]:6.0%} of undisturbed")
    share = result["measured, disturbed"] / LEFT
    print(f"measured shares reach {share:.0%} of what both cores can do beside the other process; the aim is {AIM:.0%}")
    if given.json:
        given.json.write_text(
            json.dumps({"conditions": conditions(), "rounds": rounds, "of_undisturbed": result, "of_possible": share}, indent=1)
        )


if __name__ == "__main__":
    main()
