"""llama.cpp as its users run it: built from the source package of llama-cpp-python, and its command-line tools."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

PACKAGE = "llama-cpp-python==0.3.36"
TOOLS = ("llama-bench", "llama-quantize", "llama-imatrix", "llama-perplexity")
FLAGS = {
    "GGML_NATIVE": "ON",
    "CMAKE_BUILD_TYPE": "Release",
    "BUILD_SHARED_LIBS": "OFF",
    **dict.fromkeys(("LLAMA_CURL", "LLAMA_OPENSSL", "LLAMA_BUILD_TESTS", "LLAMA_BUILD_SERVER", "LLAMA_BUILD_UI"), "OFF"),
}
CHECKED_TOKENS = 64  # perplexity keeps the logits of the second half


def build(folder: Path, jobs: int) -> Path:
    """Download, configure and compile what `folder` does not have yet -> llama-bench. Takes some 20 minutes on two cores.

    Needs a C++ compiler and `pip install cmake ninja`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not list(folder.glob("llama_cpp_python-*.tar.gz")):
        only_source = ["--no-deps", "--no-build-isolation", "--no-binary", "llama-cpp-python"]
        _run([sys.executable, "-m", "pip", "download", *only_source, "-d", folder, PACKAGE])
    archive = next(folder.glob("llama_cpp_python-*.tar.gz"))
    source = folder / archive.name.removesuffix(".tar.gz") / "vendor" / "llama.cpp"
    if not source.exists():
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
    git = source / ".git"  # points to a repository that the package does not have, and makes ninja loop
    if git.is_dir():
        shutil.rmtree(git)
    else:
        git.unlink(missing_ok=True)
    if not (folder / "build" / "build.ninja").exists():
        _run(["cmake", "-S", source, "-B", folder / "build", "-G", "Ninja", *(f"-D{key}={value}" for key, value in FLAGS.items())])
    _run(["ninja", "-C", folder / "build", f"-j{jobs}", *TOOLS])
    return folder / "build" / "bin" / "llama-bench"


@dataclass(frozen=True)
class LlamaCpp:
    """The tools in the folder of `bench`. All calls raise RuntimeError with the last lines of a tool that fails."""

    bench_path: Path
    threads: int

    def __post_init__(self) -> None:
        missing = [name for name in TOOLS if not self._tool(name).is_file()]
        if missing:
            raise RuntimeError(f"{', '.join(missing)} must be in the folder of {self.bench_path}; --build-dir builds them")

    def dequantize(self, source: Path, target: Path) -> None:
        """All tensors as llama.cpp decodes them, in 32 bits."""
        _run([self._tool("llama-quantize"), "--allow-requantize", source, target, "F32", "1"])

    def quantize(self, source: Path, target: Path, kind: str, imatrix: Path | None) -> None:
        extra = ["--imatrix", imatrix] if imatrix else []
        _run([self._tool("llama-quantize"), *extra, source, target, kind, str(os.cpu_count() or 1)])

    def imatrix(self, model: Path, target: Path, text: Path, length: int = 512, whole: bool = False) -> None:
        """From one chunk of `length` tokens, or from the whole text and for the head too.

        One is enough where only speed counts: llama-quantize refuses IQ types of at most 3 bits without a matrix.
        """
        size = ["-c", str(length), "-b", str(length), "-t", str(self.threads), "--process-output"] if whole else self._chunk(length)
        _run([self._tool("llama-imatrix"), "-m", model, "-f", text, "-o", target, *size, "--no-ppl"])

    def log_probabilities(self, model: Path, text: Path, scratch: Path) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """-> the text's first tokens (T,), and log p(next) (T / 2 - 1, vocab) for the second half of them without the last."""
        self_out = scratch / "logits.bin"
        _run([self._tool("llama-perplexity"), "-m", model, "-f", text, "--kl-divergence-base", self_out, *self._chunk(CHECKED_TOKENS)])
        data = self_out.read_bytes()
        self_out.unlink()
        assert data[:8] == b"_logits_"
        context, vocab, chunks = np.frombuffer(data, np.int32, 3, offset=8)
        assert chunks == 1
        tokens = np.frombuffer(data, np.int32, context, offset=20)
        width = 2 * ((vocab + 1) // 2) + 4  # uint16: two float32 (step and smallest value), then the steps of each token
        rows = np.frombuffer(data, np.uint16, offset=20 + 4 * context).reshape(-1, width)
        step, smallest = np.ascontiguousarray(rows[:, :4]).view(np.float32).T
        return tokens, smallest[:, None] + step[:, None] * rows[:, 4 : 4 + vocab].astype(np.float32)

    def speed(self, model: Path, *, generate: int, prompt: int = 0, mapped: bool = True) -> dict[str, Any]:
        """Tokens a second of one run after llama-bench's own warm-up, from a mapped file or one that is read.

        -> {"decode": .., "prefill": .. if prompt, "commit": ..}
        """
        tests = [
            "-n",
            str(generate),
            "-p",
            str(prompt),
            "-r",
            "1",
            "-lm",
            "mmap" if mapped else "none",
            "-t",
            str(self.threads),
            "-o",
            "json",
        ]
        results = json.loads(_run([self._tool("llama-bench"), "-m", model, *tests]))
        speeds = {"prefill" if result["n_prompt"] else "decode": float(result["avg_ts"]) for result in results}
        assert all(speed > 0 for speed in speeds.values())
        return speeds | {"commit": results[0]["build_commit"], "backend": results[0]["backends"]}

    def _tool(self, name: str) -> Path:
        return self.bench_path.with_name(name)

    def _chunk(self, tokens: int) -> list[str]:
        return ["-c", str(tokens), "-b", str(tokens), "--chunks", "1", "-t", str(self.threads)]


def sample_text(path: Path) -> Path:
    """Some English text, for the tools that need one."""
    path.write_bytes(resources.files("rwkvquant").joinpath("assets", "calibration.txt").read_bytes()[:20000])
    return path


def _run(command: list[Any]) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, errors="replace", check=False)
    if done.returncode != 0:
        said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        raise RuntimeError(f"{Path(str(command[0])).name} failed ({done.returncode}): {' / '.join(said[-3:])}")
    return done.stdout
