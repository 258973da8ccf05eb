"""Our models in lm-evaluation-harness, under the name `rwkvquant`. The only file that imports lm_eval (the extra `eval`).

    python -m rwkvquant.evaluation.lm_eval --model rwkvquant --model_args file=model.safetensors --tasks lambada_openai

is lm_eval's own command line, with this model registered first. Arguments of the model:

    file                 a packed file or a checkpoint
    engine               "native": what ships, with int8 activations (the default), or "torch": decoded weights in float32
    tokenizer            as in `generate --tokenizer`
    threads              of the native engine
    end_of_text_first    whether every context begins with token 0, as every document did in training (default True)

Contexts are read once, however many continuations follow, and so is what two contexts have in common: the requests are sorted, and the
state at the end of each common beginning is kept while it is needed. With the native engine this changes no bit of the logits.
Documents of any length are read whole; nothing is cut to a window.

Limits: one request after another, without batches. The torch engine computes the head for contexts too.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from numpy.typing import NDArray

from rwkvquant.errors import ConfigError, RwkvQuantError
from rwkvquant.evaluation.windows import END_OF_TEXT
from rwkvquant.runtime.sampling import Sampler, SamplingConfig
from rwkvquant.runtime.session import load
from rwkvquant.runtime.stopping import TextUntilStop, stop_strings
from rwkvquant.runtime.tokenizer import Tokenizer

ENGINES = ("native", "torch")
CHUNK = 512  # tokens whose logits are in memory at a time
MAX_TOKENS = 256  # of a generation that does not say how many, as in lm_eval
Logits = NDArray[np.float32]


class Reader(Protocol):
    def read(self, tokens: Sequence[int], state: Any, every: bool) -> tuple[Logits, Any]:
        """-> logits (tokens, V) if `every`, else (1, V) after the last token; and the state. `state` None: the beginning."""
        ...


class NativeReader:
    def __init__(self, file: str, tokenizer: str | None, threads: int | None) -> None:
        self._model = load(file, tokenizer, threads, modality="text")
        self.tokenizer: Tokenizer = self._model.tokenizer

    def read(self, tokens: Sequence[int], state: Any, every: bool) -> tuple[Logits, Any]:
        logits, after = self._model.forward(tokens, state, "all" if every else "last")
        return logits.reshape(-1, logits.shape[-1]), after


class TorchReader:
    def __init__(self, file: str, tokenizer: str | None) -> None:
        from rwkvquant.evaluation.load import load_model

        self._model, self.tokenizer = load_model(file, tokenizer)

    def read(self, tokens: Sequence[int], state: Any, every: bool) -> tuple[Logits, Any]:
        import torch

        logits, after = self._model.forward(torch.tensor([list(tokens)]), state)
        return logits[0 if every else slice(None), slice(None) if every else -1].cpu().numpy(), after


class Contexts:
    """Reads contexts in sorted order, each once. What several begin with is read once too: its state is kept while it is needed."""

    def __init__(self, reader: Reader, contexts: Iterable[tuple[int, ...]]) -> None:
        self._reader, self.sorted = reader, sorted(set(contexts))
        self._common = [_common(*pair) for pair in pairwise(self.sorted)] + [0]  # of each context with the next
        self._kept: list[tuple[tuple[int, ...], Logits, Any]] = []  # each is a beginning of the next

    def __iter__(self) -> Iterator[tuple[tuple[int, ...], Logits, Any]]:
        """(context, the logits (V,) after it, the state)"""
        for number, context in enumerate(self.sorted):
            yield context, *self._read(context, number)

    def _read(self, context: tuple[int, ...], number: int) -> tuple[Logits, Any]:
        while self._kept and context[: len(self._kept[-1][0])] != self._kept[-1][0]:
            self._kept.pop()
        known = len(self._kept[-1][0]) if self._kept else 0
        ends = {len(context)}
        shared = len(context)
        for common in self._common[number:]:  # with the next context, the one after it, and so on: shorter and shorter
            shared = min(shared, common)
            if shared <= known:
                break
            ends.add(shared)
        for end in sorted(ends):
            begun = len(self._kept[-1][0]) if self._kept else 0
            if end > begun:
                logits, state = self._kept[-1][1:] if self._kept else (np.empty(0, np.float32), None)
                for at in range(begun, end, CHUNK):
                    rows, state = self._reader.read(context[at : min(at + CHUNK, end)], state, False)
                    logits = rows[-1]
                self._kept.append((context[:end], logits, state))
        return self._kept[-1][1:]


@register_model("rwkvquant")
class RwkvQuantLM(TemplateLM):
    def __init__(
        self,
        file: str,
        engine: str = ENGINES[0],
        tokenizer: str | None = None,
        threads: int | None = None,
        end_of_text_first: bool = True,
        **others: Any,
    ) -> None:
        """Raises ConfigError for an unknown engine, and as `load` does. `others`: what lm_eval adds (batch_size, device, ...)."""
        super().__init__()
        if engine not in ENGINES:
            raise ConfigError(f"engine must be one of {', '.join(ENGINES)}; got {engine}")
        self.reader = NativeReader(str(file), tokenizer, threads) if engine == "native" else TorchReader(str(file), tokenizer)
        self._tokenizer = self.reader.tokenizer
        self._first = [END_OF_TEXT] if end_of_text_first else []

    @property
    def eot_token_id(self) -> int:
        return END_OF_TEXT

    @property
    def tokenizer_name(self) -> str:
        return f"rwkvquant-{self._tokenizer.to_data().kind}"

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **others: Any) -> list[int]:
        return self._tokenizer.encode(string)

    def tok_decode(self, tokens: Sequence[int], **others: Any) -> str:
        return self._tokenizer.decode(tokens)

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], disable_tqdm: bool = False, **others: Any
    ) -> list[tuple[float, bool]]:
        having: dict[tuple[int, ...], list[int]] = {}
        for index, (_, context, _) in enumerate(requests):
            having.setdefault(self._context(context), []).append(index)
        found = [(0.0, False)] * len(requests)
        for read, after, state in Contexts(self.reader, having):
            for index in having[read]:
                found[index] = self._score(requests[index][2], after, state)
                if requests[index][0]:
                    self.cache_hook.add_partial("loglikelihood", requests[index][0], found[index])
        return found

    def _score(self, tokens: Sequence[int], after: Logits, state: Any) -> tuple[float, bool]:
        """ln p of the tokens after a context, and whether each is the likeliest."""
        total, greedy = 0.0, True
        for logits, part in self._rows(tokens, after, state):
            picked = logits[np.arange(len(part)), part]
            total += float((picked - _log_sum_exp(logits)).sum())
            greedy = greedy and bool((logits.argmax(-1) == part).all())
        return total, greedy

    def _rows(self, tokens: Sequence[int], after: Logits, state: Any) -> Iterator[tuple[NDArray[np.float64], NDArray[np.int64]]]:
        """(logits that predict them (n, V), n tokens), a chunk at a time."""
        for at in range(0, len(tokens), CHUNK):
            part = np.array(tokens[at : at + CHUNK], np.int64)
            end = at + len(part)
            read = part if end < len(tokens) else part[:-1]  # nothing is asked after the last token
            rows = after[None]
            if len(read):
                logits, state = self.reader.read(read.tolist(), state, True)
                rows, after = np.concatenate([rows, logits])[: len(part)], logits[-1]
            yield rows.astype(np.float64), part

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        found = []
        for request in requests:
            (text,) = request.args
            after, state = self.reader.read([END_OF_TEXT], None, False)
            found.append(self._score(self._tokenizer.encode(text), after[-1], state)[0])
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), found[-1])
        return found

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        found = []
        for request in requests:
            context, options = request.args
            found.append(self._generate(context, dict(options)))
            self.cache_hook.add_partial("generate_until", request.args, found[-1])
        return found

    def _generate(self, context: str, options: dict[str, Any]) -> str:
        until = options.get("until") or []
        count = int(options.get("max_gen_toks", MAX_TOKENS))
        sampled = options.get("do_sample", False) or options.get("temperature", 0) > 0
        temperature = float(options.get("temperature", 1.0)) if sampled else 0.0
        sampler = Sampler(SamplingConfig(temperature=temperature, top_p=float(options.get("top_p", 1.0)), seed=options.get("seed", 0)))
        tokens = self._context(self._tokenizer.encode(context))
        output = TextUntilStop(self._tokenizer.stream_decoder(after=tokens), stop_strings(until))
        ((_, logits, state),) = Contexts(self.reader, [tokens])
        text = ""
        for _ in range(count):
            token = sampler.next(logits)
            if token == END_OF_TEXT:
                break
            text += output.push(token)
            if output.stopped:
                break
            rows, state = self.reader.read([token], state, False)
            logits = rows[-1]
        return text + output.finish()

    def _context(self, tokens: Sequence[int]) -> tuple[int, ...]:
        """With the token 0 that every document begins with; without, an empty context still has one."""
        first = [] if list(tokens[:1]) == [END_OF_TEXT] else self._first
        return (*first, *tokens) or (END_OF_TEXT,)


def _common(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    """The length of the common beginning."""
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _log_sum_exp(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, V) -> (n,)"""
    largest = logits.max(-1)
    sums: NDArray[np.float64] = np.log(np.exp(logits - largest[:, None]).sum(-1)) + largest
    return sums


def main() -> None:
    """lm_eval's command line; a mistake of ours is one sentence and exit code 2."""
    from lm_eval.__main__ import cli_evaluate

    try:
        cli_evaluate()
    except RwkvQuantError as error:
        print(f"rwkvquant: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
