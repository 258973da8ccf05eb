"""What a cluster gains on this machine: a job alone, with one worker, and with two, each on one thread (docs/cluster.md).

    python benchmarks/cluster.py --checkpoint MODEL.pth --tokenizer tokenizer.json --calib calib.txt --json OUT.json
    python benchmarks/cluster.py --random x070-0.4b --layers 2 --method gptq --code-bits 3 --json OUT.json
    python benchmarks/cluster.py --random x060-14b --layers 1 --bits 3.275 --calib-rows 4 --tasks --json OUT.json

With --tasks there is no cluster: the job runs alone, and each task is timed. So the estimated cost, by which a cluster gives out tasks, is
compared with processor seconds, and the time of eight machines is computed from them. This one may run beside other programs.

Without it, the command, the scheduler and the workers share this machine, so two workers need two cores; nothing else should run. First
all three files are compared byte for byte. Seconds are wall time, by phase; processor seconds are those of the command, and of the workers
together. The bytes of all tasks are counted, as they are sent.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

os.environ.setdefault("OMP_NUM_THREADS", "1")

import psutil
from random_pth import write_random_pth
from roofline import conditions

import rwkvquant
from rwkvquant import CalibrationConfig, QuantizeRequest
from rwkvquant.bench.shapes import released
from rwkvquant.pipeline import workers
from rwkvquant.pipeline.cluster import Cluster
from rwkvquant.pipeline.executor import Work
from rwkvquant.pipeline.measure import Trial
from rwkvquant.pipeline.progress import Progress
from rwkvquant.pipeline.tasks import Task

T = TypeVar("T")
SENT = {"tasks": 0, "bytes": 0}
KINDS = {Trial: "pass 1, candidates", Task: "pass 2, quantising"}
MACHINES = 8


def counted(work: Any) -> Any:
    parcel = plain(work)
    if hasattr(work, "perform"):
        SENT["tasks"] += 1
        SENT["bytes"] += parcel.size
    return parcel


plain, workers.packed = workers.packed, counted  # type: ignore[assignment]


class Phases(Progress):
    """Wall and processor seconds of this process by kind of phase, and what was sent in it. All blocks are added up."""

    def __init__(self) -> None:
        self.found: dict[str, dict[str, float]] = {}
        self.name, self.since = "reading", self.now()

    def now(self) -> dict[str, float]:
        return {"seconds": time.perf_counter(), "processor_seconds": time.process_time(), **SENT}

    def phase(self, what: str, steps: int = 0) -> None:
        now, kept = self.now(), self.found.setdefault(self.name, dict.fromkeys(self.since, 0.0))
        for key, value in now.items():
            kept[key] += value - self.since[key]
        self.name, self.since = re.sub(r" \d+ of \d+", "", what), now

    def end(self) -> None:
        self.phase("end")


def job(source: Path, request: QuantizeRequest, folder: Path, processes: list[psutil.Process], executor: Any) -> dict[str, Any]:
    before, start = processor_seconds(processes), time.perf_counter()
    own, phases, output = time.process_time(), Phases(), folder / "out.safetensors"
    rwkvquant.quantize(source, output, request, progress=phases, **({} if executor is None else {"executor": executor}))
    return {
        "seconds": time.perf_counter() - start,
        "processor_seconds": time.process_time() - own,
        "processor_seconds_of_workers": processor_seconds(processes) - before,
        "phases": phases.found,
        "sha256": hashlib.sha256(output.read_bytes()).hexdigest(),
    }


class Timed:
    """One task after the other, in this process, with the processor seconds of each beside its estimated cost."""

    def __init__(self) -> None:
        self.found: dict[str, list[dict[str, Any]]] = {}

    def run(self, tasks: Iterable[Work[T]]) -> Iterator[T]:
        for task in tasks:
            start, cost = time.process_time(), task.cost
            result = task.perform()
            kept = self.found.setdefault(KINDS[type(task)], [])
            settings: list[str] = [str(one.setting) for one in task.matrices] if isinstance(task, Task) else []
            kept.append({"name": task.name, "cost": cost, "processor_seconds": time.process_time() - start, "settings": settings})
            yield result


def summed_up(tasks: list[dict[str, Any]]) -> dict[str, Any]:
    """Seconds of a cluster are those of its busiest machine. A task goes to the one with the least cost so far, the biggest first."""
    tasks = sorted(tasks, key=lambda one: -one["cost"])
    loads = [[0.0, 0.0] for _ in range(MACHINES)]
    for one in tasks:
        least = min(loads)
        least[:] = [least[0] + one["cost"], least[1] + one["processor_seconds"]]
    cost, seconds = (sum(one[key] for one in tasks) for key in ("cost", "processor_seconds"))
    return {
        "tasks": len(tasks),
        "processor_seconds": seconds,
        f"processor_seconds_of_{MACHINES}": max(load[1] for load in loads),
        "largest": tasks[0]["name"],
        "share_by_cost": tasks[0]["cost"] / cost,
        "share_by_seconds": tasks[0]["processor_seconds"] / seconds,
    }


def timed_tasks(source: Path, request: QuantizeRequest, folder: Path) -> dict[str, Any]:
    executor = Timed()
    shown("alone", job(source, request, folder, [], executor))
    found: dict[str, Any] = {}
    for kind, tasks in executor.found.items():
        found[kind] = summed_up(tasks) | {"each": tasks}
        print(kind, {key: value for key, value in found[kind].items() if key != "each"}, flush=True)
    return found


def processor_seconds(processes: list[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def started(what: str, *arguments: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", f"distributed.cli.dask_{what}", "--no-dashboard", *arguments]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def with_workers(count: int, source: Path, request: QuantizeRequest, folder: Path) -> dict[str, Any]:
    file = folder / f"scheduler{count}.json"
    processes = [started("scheduler", "--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(file))]
    try:
        while not (file.exists() and file.read_text()):
            time.sleep(0.1)
        address = json.loads(file.read_text())["address"]
        for _ in range(count):
            where = ["--local-directory", str(folder)]
            processes.append(started("worker", address, "--no-nanny", "--nthreads", "1", "--memory-limit", "0", *where))
        with Cluster(address) as cluster:
            while len(cluster._workers.known) < count:
                cluster._workers.look()
                cluster._workers.ended(0.1)
            return job(source, request, folder, [psutil.Process(each.pid) for each in processes[1:]], cluster)
    finally:
        for process in processes:
            process.kill()  # a worker whose scheduler is gone may wait for it at SIGTERM
        for process in processes:
            process.wait()


def shown(label: str, found: dict[str, Any]) -> dict[str, Any]:
    own, theirs = found["processor_seconds"], found["processor_seconds_of_workers"]
    print(f"{label:10} {found['seconds']:7.1f} s, processor {own:.1f} + {theirs:.1f} s", flush=True)
    for name, each in found["phases"].items():
        print(f"    {name:36} {each['seconds']:7.2f} s {each['tasks']:5.0f} tasks {each['bytes'] / 1e6:8.1f} MB", flush=True)
    return found


def compared(source: Path, request: QuantizeRequest, folder: Path, counts: list[int]) -> dict[str, Any]:
    found = {"alone": shown("alone", job(source, request, folder, [], None))}
    for count in counts:
        found[f"{count} workers"] = shown(f"{count} workers", with_workers(count, source, request, folder))
    assert len({each["sha256"] for each in found.values()}) == 1, "the files differ"
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint")
    parser.add_argument("--random", help="a released shape with random weights in place of a checkpoint")
    parser.add_argument("--layers", type=int, help="of the random model, which has a vocabulary of 256")
    parser.add_argument("--tokenizer")
    parser.add_argument("--calib")
    parser.add_argument("--calib-rows", type=int, default=32)
    parser.add_argument("--method", default="rwkvquant")
    parser.add_argument("--bits", type=float)
    parser.add_argument("--code-bits", type=int)
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--tasks", action="store_true", help="time the tasks of a job alone, without a cluster")
    parser.add_argument("--json")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that no worker is left
    calibration = CalibrationConfig(arguments.calib, arguments.calib_rows)
    tokenizer = "bytes" if arguments.random else arguments.tokenizer
    request = QuantizeRequest(
        method=arguments.method, bits=arguments.bits, code_bits=arguments.code_bits, tokenizer=tokenizer, calibration=calibration
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if arguments.random:
            arch, dims = released(arguments.random)
            source = folder / "random.pth"
            write_random_pth(source, arch, dataclasses.replace(dims, layers=arguments.layers or dims.layers, vocab=256))
        else:
            source = Path(arguments.checkpoint)
        found = timed_tasks(source, request, folder) if arguments.tasks else compared(source, request, folder, arguments.workers)
    result = {"arguments": vars(arguments), "conditions": conditions(), "tasks" if arguments.tasks else "runs": found}
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
