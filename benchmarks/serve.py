"""The server with many clients, and with a cached prefix; beside llama.cpp's server if it is given.

    python benchmarks/serve.py --random x070-0.4b --json OUT.json
    python benchmarks/serve.py --random x070-0.4b --llama-server build/bin/llama-server --gguf x070-0.4b-Q2_K.gguf x070-0.4b-Q4_0.gguf

Each server is a process on this machine with all its cores, and gets the same requests over loopback, one server after the other, --rounds
times, every second time in the opposite order. vs_llama_cpp.py writes the GGUF of the same random model (--work-dir). First it checks: of
our server, the text of every client must be the one that it gets alone.

    tokens/s       C clients ask at once for --tokens tokens after a prompt of about --prompt tokens, each another one, streamed. All tokens
                   of all clients, divided by the time from the first request to the last token.
    first token    one client: the time until the first text after a prompt of about --prefix tokens and a new question at its end. Cold:
                   the beginning is new too. Cached: the third question after the same beginning, and later ones. Again: the same prompt,
                   which is cached whole. One more: the beginning and one more word.
    step           one client: the time from the first token to the last, for each token.

Medians of the rounds. Before each round a server writes --warm-up tokens that are not counted. The client is one asyncio process on the
same machine, so it takes some of the cores' time from all servers.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from roofline import conditions

from rwkvquant.bench.random_model import write_random_model
from rwkvquant.bench.shapes import released

WORDS = ["river", "stone", "lamp", "winter", "captain", "letter", "garden", "window", "silence", "market", "harbour", "bridge", "paper"]
CLIENTS = (1, 4, 8, 16)
OURS = "rwkvquant"
PAUSE = 0.1  # seconds between two questions of one client; ours copies states after it has sent the answer


@dataclass
class Asked:
    """One streamed answer: when it was asked, when each piece of text came, and what."""

    begun: float
    times: list[float] = field(default_factory=list)
    text: str = ""
    tokens: int = 0
    prompt: int = 0  # tokens of it
    cached: int = 0  # of these, what the server says it did not read again


async def ask(port: int, prompt: str, tokens: int) -> Asked:
    # "ignore_eos" is llama.cpp's way to forbid the end of text, the bias is ours.
    # The likeliest token is asked for with top_k too, with which llama.cpp is faster.
    body = {"prompt": prompt, "max_tokens": tokens, "temperature": 0, "top_k": 1, "ignore_eos": True, "cache_prompt": True}
    raw = json.dumps(body | {"logit_bias": {"0": -100}, "stream": True, "stream_options": {"include_usage": True}}).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Length: {len(raw)}\r\n"
    answer = Asked(time.perf_counter())
    writer.write(head.encode() + b"Content-Type: application/json\r\n\r\n" + raw)
    while line := await reader.readline():
        if not line.startswith(b"data: {"):
            continue
        event = json.loads(line[6:])
        if "error" in event:
            raise RuntimeError(event["error"])
        if event.get("usage"):
            answer.tokens, answer.prompt = event["usage"]["completion_tokens"], event["usage"]["prompt_tokens"]
            answer.cached = (event["usage"].get("prompt_tokens_details") or {}).get("cached_tokens", 0)
        if event.get("choices") and event["choices"][0].get("text"):
            answer.times.append(time.perf_counter())
            answer.text += event["choices"][0]["text"]
    writer.close()
    if not answer.tokens:
        raise RuntimeError("an answer without usage")
    return answer


def words(count: int, seed: int) -> str:
    rng = random.Random(seed)
    return " ".join(rng.choice(WORDS) for _ in range(count))


async def together(port: int, clients: int, prompt: int, tokens: int, seed: int) -> tuple[float, list[str]]:
    """tokens/s of all clients, and their texts."""
    begun = time.perf_counter()
    answers = await asyncio.gather(*(ask(port, words(prompt, 1000 * seed + each), tokens) for each in range(clients)))
    return sum(answer.tokens for answer in answers) / (max(answer.times[-1] for answer in answers) - begun), [a.text for a in answers]


async def first_token(port: int, prefix: int, seed: int) -> dict[str, float]:
    """Seconds until the first text: cold, with a cached beginning, again; of a step; and how many tokens of a prompt were read."""

    async def asked(prompt: str, tokens: int = 1) -> Asked:
        await asyncio.sleep(PAUSE)
        return await ask(port, prompt, tokens)

    known = words(prefix, seed)
    cold = await asked(f"{known} {words(8, seed + 1)}", 32)
    await asked(f"{known} {words(8, seed + 2)}")
    cached = [await asked(f"{known} {words(8, seed + 3 + index)}") for index in range(3)]
    again = [await asked(f"{known} {words(8, seed + 3)}") for _ in range(3)]
    one_more = [await asked(f"{known} {word}") for word in ("snow", "music", "gold")]  # not in WORDS
    return {
        "cold_s": cold.times[0] - cold.begun,
        "cached_s": statistics.median(a.times[0] - a.begun for a in cached),
        "again_s": statistics.median(a.times[0] - a.begun for a in again),
        "one_more_s": statistics.median(a.times[0] - a.begun for a in one_more),
        "step_s": (cold.times[-1] - cold.times[0]) / (cold.tokens - 1),  # pieces may come several at a time
        "cold_read": cold.prompt - cold.cached,
        "cached_read": statistics.median(a.prompt - a.cached for a in cached),
        "again_read": statistics.median(a.prompt - a.cached for a in again),
        "one_more_read": statistics.median(a.prompt - a.cached for a in one_more),
    }


@contextmanager
def process(command: list[str], ready: str) -> Iterator[int]:
    """A server -> its port. `ready`: what its output says, with the port."""
    with tempfile.TemporaryFile() as log:
        started = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        try:
            found = None
            while found is None:
                if started.poll() is not None:
                    log.seek(0)
                    raise RuntimeError(log.read().decode(errors="replace")[-2000:])
                time.sleep(0.1)
                found = re.search(ready, os.pread(log.fileno(), 1 << 20, 0).decode(errors="replace"))
            yield int(found[1])
        finally:
            started.send_signal(signal.SIGTERM)
            try:
                started.wait(20)
            except subprocess.TimeoutExpired:
                started.kill()


async def measure(port: int, args: argparse.Namespace, round_: int) -> dict[str, Any]:
    await ask(port, "warm up", args.warm_up)
    rates = {clients: (await together(port, clients, args.prompt, args.tokens, 10 * round_ + clients))[0] for clients in CLIENTS}
    return {"tokens_per_s": rates} | await first_token(port, args.prefix, 7919 * (round_ + 1))


async def check(port: int, args: argparse.Namespace) -> None:
    """Texts of eight clients at once are those of each alone."""
    _, side = await together(port, 8, args.prompt, 16, 1)
    alone = [(await ask(port, words(args.prompt, 1000 + each), 16)).text for each in range(8)]
    if side != alone:
        raise RuntimeError("answers depend on company")


def medians(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    rates = {clients: statistics.median(each["tokens_per_s"][clients] for each in rounds) for clients in CLIENTS}
    return {"tokens_per_s": rates} | {
        name: statistics.median(each[name] for each in rounds) for name in rounds[0] if name != "tokens_per_s"
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--random", default="x070-0.4b")
    parser.add_argument("--model", help="a packed file, in place of a random model")
    parser.add_argument("--llama-server")
    parser.add_argument("--gguf", nargs="+", default=[], help="for --llama-server: one file, or several, each served for itself")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--prompt", type=int, default=24)
    parser.add_argument("--prefix", type=int, default=2048)
    parser.add_argument("--warm-up", type=int, default=96)
    parser.add_argument("--json", type=Path, help="write everything here, after each round of each server")
    args = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    about = {key: getattr(args, key) for key in ("tokens", "prompt", "prefix", "warm_up")} | {"threads": cores}
    with tempfile.TemporaryDirectory() as folder:
        servers = commands(args, cores, Path(folder))
        rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in servers}
        checked = False
        for round_ in range(args.rounds):
            for name, (command, ready) in list(servers.items())[:: 1 if round_ % 2 == 0 else -1]:
                with process(command, ready) as port:
                    if name == OURS and not checked:
                        asyncio.run(check(port, args))
                        checked = True
                    rounds[name].append(asyncio.run(measure(port, args, round_)))
                print(name, round_, json.dumps(rounds[name][-1]), flush=True)
                results = {name: medians(each) for name, each in rounds.items() if each}
                report = {"model": args.model or args.random, "conditions": conditions() | about, "results": results, "rounds": rounds}
                if args.json:
                    args.json.write_text(json.dumps(report, indent=1) + "\n")
    for name, each in results.items():
        rates = ", ".join(f"{clients}: {rate:.0f}" for clients, rate in each["tokens_per_s"].items())
        times = ", ".join(f"{key[:-2]} {1000 * each[key]:.1f} ms" for key in ("cold_s", "cached_s", "one_more_s", "again_s", "step_s"))
        print(f"{name}: tokens/s of {rates}; first token {times}; again / step {each['again_s'] / each['step_s']:.2f}")
        if name != OURS:
            ratios = (f"{clients}: {results[OURS]['tokens_per_s'][clients] / rate:.2f}" for clients, rate in each["tokens_per_s"].items())
            print(f"  rwkvquant writes as many times more tokens: {', '.join(ratios)}")


def commands(args: argparse.Namespace, cores: int, folder: Path) -> dict[str, tuple[list[str], str]]:
    """name -> the command of a server, and what it says when it is ready, with its port."""
    model = args.model or str(folder / "model.safetensors")
    if not args.model:
        write_random_model(model, *released(args.random))
    slots = str(max(CLIENTS))
    ours = [sys.executable, "-m", "rwkvquant", "serve", model, "--port", "0", "--slots", slots, "--threads", str(cores)]
    servers = {OURS: ([*ours, *([] if args.model else ["--tokenizer", "world"])], r"http://\S+:(\d+)/v1")}
    for gguf in args.gguf:
        context = str(max(CLIENTS) * (2 * args.prefix + 1024))
        options = ["--parallel", slots, "-c", context, "-t", str(cores), "--port", "8917", "--host", "127.0.0.1"]
        name = f"llama.cpp {Path(gguf).stem.rpartition('-')[2]}"
        servers[name] = ([args.llama_server, "-m", gguf, *options], r"listening on http://127\.0\.0\.1:(\d+)")
    return servers


if __name__ == "__main__":
    main()
