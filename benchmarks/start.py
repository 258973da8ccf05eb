"""What the engine costs besides its tokens: start, load, memory, installed size.

    python benchmarks/start.py --random x070-0.1b x070-2.9b --install --json OUT.json

For the packed file that the package carries, and for random models of released shapes read with the RWKV World vocabulary:

    first token   from the start of a process `rwkvquant generate` to its first output, which is the prompt and the first token
    peak RSS      of such a process over 32 tokens, with the pages of the file, after a short prompt and after one of about 800 tokens;
                  allowed: file + state + 10 % + 60 MB
    load          `rwkvquant.load` of a file in the page cache, in a process that has everything imported

Medians of --rounds, after one that does not count. --install makes a virtual environment, installs this tree into it without
torch, and adds up its packages.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path
from typing import Any

from roofline import conditions

from rwkvquant.bench.measure import state_bytes
from rwkvquant.bench.random_model import write_random_model
from rwkvquant.bench.shapes import released
from rwkvquant.formats.container import open_packed
from rwkvquant.runtime.session import load

ROOT = Path(__file__).resolve().parents[1]
DEMO = ROOT / "src" / "rwkvquant" / "assets" / "rwkv7-8m-3.275bpw.safetensors"
PROMPT, TOKENS = "Once upon a time", 32
LONG_PROMPT = 200 * f"{PROMPT}. "
ALLOWED_MB = 60
# The command line, which at the end prints its peak memory. (The kernel's own figure would begin with the memory of the parent.)
COMMAND = """
import atexit, runpy, sys
peak = lambda: next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
atexit.register(lambda: print(peak(), file=sys.stderr))
runpy.run_module("rwkvquant", run_name="__main__", alter_sys=True)
"""


def generate(file: Path, tokenizer: str | None, prompt: str = PROMPT) -> tuple[float, int]:
    """-> seconds to the first output, and the peak RSS in bytes. Exits with 1 if nothing comes out."""
    command = [sys.executable, "-c", COMMAND, "generate", str(file), "-p", prompt, "-n", str(TOKENS), "--temperature", "0"]
    started = time.perf_counter()
    process = subprocess.Popen(
        command + (["--tokenizer", tokenizer] if tokenizer else []), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    first = process.stdout.read(1)
    seconds = time.perf_counter() - started
    _, said = process.communicate()
    if not first or process.returncode != 0:
        sys.exit(f"generate {file.name} failed: {said}")
    return seconds, 1024 * int(said.split()[-1])


def measure(file: Path, tokenizer: str | None, rounds: int) -> dict[str, Any]:
    packed = open_packed(file)
    size = packed.file_bytes
    generate(file, tokenizer)
    runs = [generate(file, tokenizer) for _ in range(rounds)]
    loads = []
    for _ in range(rounds + 1):
        started = time.perf_counter()
        load(file, tokenizer=tokenizer)
        loads.append(time.perf_counter() - started)
    return {
        "file_bytes": size,
        "first_token_s": statistics.median(seconds for seconds, _ in runs),
        "load_s": statistics.median(loads[1:]),
        "peak_rss_bytes": max(peak for _, peak in runs),
        "peak_rss_long_prompt_bytes": generate(file, tokenizer, LONG_PROMPT)[1],
        "allowed_rss_bytes": round(1.1 * (size + state_bytes(packed.architecture, packed.dims))) + (ALLOWED_MB << 20),
    }


def installed() -> dict[str, float]:
    """MB of each folder of site-packages, without pip, in a new environment in which `generate` works without torch."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = Path(folder, "bin", "python")
        subprocess.run([python, "-m", "pip", "install", "--quiet", str(ROOT)], check=True)
        speaks = [python, "-m", "rwkvquant", "generate", str(DEMO), "--prompt", "The old man", "--max-tokens", "8"]
        subprocess.run(speaks, check=True, cwd=folder, stdout=subprocess.DEVNULL)
        if subprocess.run([python, "-c", "import torch"], cwd=folder, stderr=subprocess.DEVNULL, check=False).returncode == 0:
            sys.exit("torch was installed with the engine")
        where = "import sysconfig; print(sysconfig.get_path('purelib'))"
        site = Path(subprocess.check_output([python, "-c", where], text=True).strip())
        folders = [entry for entry in site.iterdir() if entry.is_dir() and not entry.name.startswith("pip")]
        sizes = {each.name: sum(file.stat().st_size for file in each.rglob("*") if file.is_file()) / 1e6 for each in folders}
    return {name: size for name, size in sorted(sizes.items(), key=lambda item: -item[1]) if size > 0.1}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--random", nargs="*", default=[], help="released shapes: x070-0.1b ...")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--install", action="store_true", help="also install this tree into a new environment, and measure its size")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    document: dict[str, Any] = {"conditions": conditions() | {"rounds": options.rounds}, "models": {}}
    document["models"]["demo"] = measure(DEMO, None, options.rounds)
    for shape in options.random:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, f"{shape}.safetensors")
            write_random_model(path, *released(shape))
            document["models"][shape] = measure(path, "world", options.rounds)
    if options.install:
        document["installed_mb"] = installed()
    for name, row in document["models"].items():
        print(f"{name:10} file {row['file_bytes'] / 1e6:7.1f} MB   first token {row['first_token_s']:.2f} s   load {row['load_s']:.3f} s   "
              f"peak RSS {row['peak_rss_bytes'] / 1e6:7.1f}, long prompt {row['peak_rss_long_prompt_bytes'] / 1e6:7.1f}, of "
              f"{row['allowed_rss_bytes'] / 1e6:7.1f} MB allowed")  # fmt: skip
    if options.install:
        parts = ", ".join(f"{name} {size:.1f}" for name, size in document["installed_mb"].items())
        print(f"installed: {sum(document['installed_mb'].values()):.1f} MB ({parts})")
    if options.json:
        options.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
