"""A model that reads and writes text, from a packed file or an original checkpoint. Torch is never imported.

    model = load("model.safetensors")
    logits, state = model.forward([12, 7, 99])
    for piece in model.stream("Once upon a time", max_tokens=64): print(piece, end="")

Token 0 is the end of a text. Models are trained with it between documents, so a generation from nothing reads a token 0 before
the prompt, and stops when the model writes one.

Tokens are read by the native engine (engines/native.py), or where the native module is missing by NumPy (engines/reference.py), slowly.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack, overload

import numpy as np
from numpy.typing import NDArray

from rwkvquant.architectures import architecture
from rwkvquant.errors import ConfigError
from rwkvquant.formats.container import PackedFile, open_packed
from rwkvquant.formats.header import LENGTH_BYTES, PREFIX
from rwkvquant.formats.pages import Held
from rwkvquant.formats.tokenizer_data import TokenizerData
from rwkvquant.kernels.kv_cache import KVCacheConfig
from rwkvquant.kernels.state import RecurrentState
from rwkvquant.runtime.engines.base import Tuning, Which, checked_tokens
from rwkvquant.runtime.engines.choice import make_engine
from rwkvquant.runtime.sampling import Sampler, SamplingConfig, SamplingOptions, sampling_of
from rwkvquant.runtime.states.caches import cache_maker
from rwkvquant.runtime.states.files import FULL_BITS, State
from rwkvquant.runtime.states.pool import MAX_SLOTS, Slots, room
from rwkvquant.runtime.states.tuned import begin_with, tuned_state
from rwkvquant.runtime.stopping import TextUntilStop, stop_strings
from rwkvquant.runtime.tokenizer import Tokenizer, TokenizerSpec, from_data, load_tokenizer
from rwkvquant.runtime.tokenizer_base import token_ids
from rwkvquant.runtime.weights import Weights, checkpoint_weights, packed_weights

if TYPE_CHECKING:
    from rwkvquant.checkpoints import Checkpoint
    from rwkvquant.results import GenerateResult
    from rwkvquant.runtime.vision import VisionModel

END_OF_TEXT = 0
Logits = NDArray[np.float32]


@overload
def load(
    path: str | os.PathLike[str],
    tokenizer: str | None = None,
    threads: int | None = None,
    activations: str | None = None,
    pages: str = "auto",
    adapter: str | None = None,
    kv_cache: int | KVCacheConfig | None = None,
    modality: Literal["text"] | None = None,
) -> Model: ...
@overload
def load(
    path: str | os.PathLike[str],
    tokenizer: str | None = None,
    threads: int | None = None,
    activations: str | None = None,
    pages: str = "auto",
    adapter: str | None = None,
    kv_cache: int | KVCacheConfig | None = None,
    *,
    modality: Literal["image"],
) -> VisionModel: ...
def load(
    path: str | os.PathLike[str],
    tokenizer: str | None = None,
    threads: int | None = None,
    activations: str | None = None,
    pages: str = "auto",
    adapter: str | None = None,
    kv_cache: int | KVCacheConfig | None = None,
    modality: Literal["text", "image"] | None = None,
) -> Model | VisionModel:
    """Open a packed file or an original checkpoint; the content decides.

    `tokenizer` is "world", "bytes" or a file. The default is the one in the packed file or next to the
    checkpoint, otherwise the usual one for the vocabulary's size.
    `threads`: by default one for each physical core that may be used. `activations` "int8" or "float32" is what quantised products
    multiply with: int8 unless RWKVQUANT_ACTIVATIONS or the caller says float32, which is slower and is the reference for int8.
    `pages`: "huge" copies a packed file into huge pages of private memory, which is fast; "map" maps it, and processes that open it share
    its memory; "auto" copies it if huge pages and enough memory are there (formats/pages.py). A checkpoint is always decoded into memory.
    `adapter` is merged into a checkpoint: "PATH", "PATH,alpha=NUMBER" or "PATH,init=PATH" (checkpoints/adapter.py).
    `kv_cache`: how a transformer keeps keys and values: 2, 3, 4, 8, 16 or 32 bits, or a KVCacheConfig (kernels/kv_cache.py). Default: 32.
    `modality`: "text" or "image" refuses a file of the other kind. With None the file decides: a model for images is a VisionModel, though
    a type checker, which cannot see the file, takes it for a Model.
    Raises FormatError or CheckpointError for a file that is neither, TokenizerError for a tokenizer that does not fit, and
    ConfigError for unknown activations, for pages that are unknown or cannot be had, a number of threads out of range, an
    adapter for a packed file, a cache for a model that has none, or a file of the other modality.
    """
    if is_packed(path):
        refuse_adapter(path, adapter)
        opened: PackedFile | Checkpoint = open_packed(Path(path), pages)
    else:
        from rwkvquant.checkpoints import open_checkpoint  # here, because a packed file does without the readers of other formats

        opened = open_checkpoint(path, adapter or "")
        if pages != "auto":
            raise ConfigError(f"pages must be auto for a checkpoint, which is decoded into memory; got {pages} for {path}")
    own = opened.architecture
    if modality not in (None, own.modality):
        raise ConfigError(f"{path}: {own.text_only() if modality == 'text' else own.images_only()}")
    weights = packed_weights(opened) if isinstance(opened, PackedFile) else checkpoint_weights(opened)
    if opened.image is not None:
        if tokenizer is not None:
            raise ConfigError(f"{path}: a model for images has no tokenizer; got {tokenizer}")
        if kv_cache is not None:
            raise ConfigError(f"{path}: a model for images has no cache of keys and values; got {kv_cache}")
        from rwkvquant.runtime.vision import VisionModel

        return VisionModel(weights, opened.image, threads, activations)
    if isinstance(opened, PackedFile):
        return Model(weights, tokenizer, opened.tokenizer, threads, activations, kv_cache)
    return Model(weights, tokenizer or opened.tokenizer, None, threads, activations, kv_cache)


def is_packed(path: str | os.PathLike[str]) -> bool:
    """Whether the file begins as our packed files do. False for a missing or unreadable file: open_checkpoint then says why."""
    if not Path(path).is_file():
        return False
    try:
        with open(path, "rb") as file:
            return file.read(LENGTH_BYTES + len(PREFIX))[LENGTH_BYTES:] == PREFIX
    except OSError:
        return False


def refuse_adapter(packed: str | os.PathLike[str], adapter: str | None) -> None:
    """Raises ConfigError if there is an adapter: weights that were quantised already are not changed."""
    if adapter:
        raise ConfigError(
            f"an adapter is merged into a checkpoint, and {os.fspath(packed)} is a packed file; got the adapter {adapter}. "
            "Quantise the checkpoint with it: rwkvquant quantize CHECKPOINT -o OUT --adapter ADAPTER"
        )


class Model:
    """`arch` names the architecture; `dims` has all sizes. No call changes the model or a state that it gets; slots have copies."""

    def __init__(
        self,
        weights: Weights,
        tokenizer: TokenizerSpec = None,
        packed_tokenizer: TokenizerData | None = None,
        threads: int | None = None,
        activations: str | None = None,
        kv_cache: int | KVCacheConfig | None = None,
    ) -> None:
        self.arch, self.dims = weights.arch, weights.dims
        self._architecture, self._start = architecture(weights.arch), weights.start
        self._require_whole, self._held = weights.require_whole, weights.held
        self._engine = make_engine(weights, threads, activations)
        self._caches = cache_maker(weights, kv_cache)
        self._tokenizer_name, self._packed_tokenizer = tokenizer, packed_tokenizer
        if isinstance(tokenizer, str):
            _ = self.tokenizer  # a name that was given is tested now, the default when text is first needed

    @property
    def threads(self) -> int:
        return self._engine.threads

    @property
    def tuning(self) -> Tuning | None:
        """What the native engine has measured until now, to read faster; None for the reference. Results never depend on it."""
        return self._engine.tuning

    @property
    def backend(self) -> str:
        """What reads the tokens: "avx512", "avxvnni", "avx2", "i8mm", "neon" or "plain" natively, "reference" for NumPy."""
        return self._engine.name

    @property
    def held(self) -> Held | None:
        """Whether the packed file is mapped or copied, and how much of it is in huge pages now; None for a checkpoint. Takes a millisecond.

        `str(model.held)` is a line for people.
        """
        return self._held()

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Raises TokenizerError if none was given, none is in the file, and none is usual for this vocabulary.

        FormatError if the file became shorter since it was opened.
        """
        if self._tokenizer_name is None and self._packed_tokenizer is not None:
            self._require_whole()
            return from_data(self._packed_tokenizer, self.dims.vocab)
        return load_tokenizer(self._tokenizer_name, self.dims.vocab)

    def initial_state(self) -> State:
        """The state of a model that has read nothing: zeros, or the tuned state that came with the weights."""
        return begin_with(self._start, self.arch, self.dims)

    def tuned_state(self, path: str | os.PathLike[str], order: str | None = None) -> State:
        """A tuned state from a file of other tools, for `state=` of the calls below. It takes the place of `initial_state`.

        `path`: a .pth or a safetensors file with `blocks.N.att.time_state` alone. `order` "value-key" or "key-value" says which index of
        its matrices is first; None: value-key in a .pth, key-value in safetensors. Raises CheckpointError for any other file, and for
        the state of a model of another size.
        """
        return tuned_state(path, self.arch, self.dims, order)

    def forward(self, tokens: Sequence[int], state: State | None = None, logits: Which = "last") -> tuple[Logits, State]:
        """Read tokens after `state` (None: from the beginning, no token 0 is added) -> logits, state after the last token.

        Logits are float32, (vocab,) for "last" and (tokens, vocab) for "all". Raises ConfigError without tokens, TokenizerError
        for a token that is not an integer or is outside the vocabulary, FormatError for another model's state.
        """
        if state is not None:
            state.require(self.arch, self.dims)
        sequences = checked_tokens([tokens], self.dims.vocab, logits)
        before = (state or self.initial_state()).recurrent
        rows, after = self._engine.read(sequences, self._caches.packed(before) if self._caches else before, logits)
        return (rows[0][-1] if logits == "last" else rows[0]), State(self.arch, after)

    def forward_batch(
        self, sequences: Sequence[Sequence[int]], states: Sequence[State | None] | None = None, logits: Which = "last"
    ) -> tuple[Any, list[State]]:
        """Read sequences of any lengths side by side, each as `forward` would -> logits, the state of each.

        Logits are (sequences, vocab) for "last", and a list of (tokens, vocab) for "all".
        """
        if states is not None and len(states) != len(sequences):
            raise ConfigError(f"forward_batch takes one state a sequence; got {len(states)} states for {len(sequences)} sequences")
        sequences = checked_tokens(sequences, self.dims.vocab, logits)
        slots = self.slots(len(sequences))
        own = [slots.add(state) for state in states or [None] * len(sequences)]
        rows = list(slots.forward(dict(zip(own, sequences, strict=True)), logits).values())
        return (np.stack(rows) if logits == "last" else rows), [slots.state(slot) for slot in own]

    def slots(self, count: int = 1, state_bits: int = 32) -> Slots:
        """Room for `count` sequences that are decoded in place, side by side (states/pool.py).

        `state_bits` 12 keeps their states in 41 % of the memory, rounded after each token, and 8 in 29 %, rounded more. Raises
        ConfigError for a count below 1, for other bits, and for 12 or 8 bits where the size of a head is odd or the state has no matrices.
        """
        return Slots(self._engine, self.dims, self._room(count, state_bits), self.initial_state(), state_bits)

    def _room(self, count: int, state_bits: int) -> RecurrentState:
        if self._caches and state_bits == FULL_BITS and 1 <= count <= MAX_SLOTS:
            return self._caches.room(count)
        return room(self._architecture, self.dims, count, state_bits)

    def stream(
        self,
        prompt: str | Sequence[int],
        max_tokens: int = 64,
        sampling: SamplingConfig | None = None,
        state: State | None = None,
        end_of_text_first: bool | None = None,
        stop: str | Sequence[str] = (),
        **options: Unpack[SamplingOptions],
    ) -> Iterator[str]:
        """Continue a prompt (text or tokens) and yield the text as it grows, complete characters only.

        It ends at token 0, at `max_tokens`, or before `stop`, a text or several, which is never yielded (stopping.py).
        `end_of_text_first` reads a token 0 before the prompt; None does so if no state is given. The sampling is a SamplingConfig, or its
        fields as `options`: temperature, top_p, top_k, min_p, presence_penalty, frequency_penalty, penalty_decay, seed.
        Raises as `generate` does.
        """
        read = self._tokens_of(prompt)
        output = TextUntilStop(self.tokenizer.stream_decoder(after=read), stop_strings(stop))
        for token, _ in self._continue(read, max_tokens, Sampler(sampling_of(sampling, options)), state, end_of_text_first):
            if token is not None and (piece := output.push(token)):
                yield piece
            if output.stopped:
                return
        if piece := output.finish():
            yield piece

    def generate(
        self,
        prompt: str | Sequence[int],
        max_tokens: int = 64,
        sampling: SamplingConfig | None = None,
        state: State | None = None,
        end_of_text_first: bool | None = None,
        stop: str | Sequence[str] = (),
        **options: Unpack[SamplingOptions],
    ) -> GenerateResult:
        """All of `stream` at once: `model.generate("Once upon a time", top_k=40, min_p=0.05, seed=1).text`.

        Raises ConfigError for an empty prompt after a state, an empty stop string, and a sampling that is out of range or has an unknown
        option; TokenizerError for text the tokenizer cannot take.
        """
        from rwkvquant.results import GenerateResult

        tokens: list[int] = []
        sampler = Sampler(sampling_of(sampling, options))
        read = self._tokens_of(prompt)
        output = TextUntilStop(self.tokenizer.stream_decoder(after=read), stop_strings(stop))
        text, reason = "", "length"
        for token, logits in self._continue(read, max_tokens, sampler, state, end_of_text_first):  # noqa: B007 (used after the loop)
            if token is None:
                reason = "stop" if max_tokens else "length"
                break
            tokens.append(token)
            text += output.push(token)
            if output.stopped:
                break
        text += output.finish()
        return GenerateResult(text, tuple(tokens), "stop" if output.stopped else reason, logits_hash(logits), sampler.seed)

    def _tokens_of(self, prompt: str | Sequence[int]) -> list[int]:
        return self.tokenizer.encode(prompt) if isinstance(prompt, str) else token_ids(prompt, self.dims.vocab)

    def _continue(
        self,
        tokens: list[int],
        max_tokens: int,
        sampler: Sampler,
        state: State | None,
        end_of_text_first: bool | None,
    ) -> Iterator[tuple[int | None, Logits]]:
        """Each token with the logits it was chosen from. The end of text is None and the last; None too if max_tokens is 0."""
        if max_tokens < 0:
            raise ConfigError(f"max_tokens must be at least 0; got {max_tokens}")
        if end_of_text_first or (end_of_text_first is None and state is None):
            tokens = [END_OF_TEXT, *tokens]
        if not tokens:
            raise ConfigError("a prompt has at least one token unless a token 0 is read before it; got an empty one")
        slots = self.slots()
        slot = slots.add(state)
        logits = slots.forward({slot: tokens})[slot]
        if max_tokens == 0:
            yield None, logits
        for count in range(1, max_tokens + 1):
            token = sampler.next(logits)
            yield (None if token == END_OF_TEXT else token), logits
            if token == END_OF_TEXT or count == max_tokens:
                return
            logits = slots.forward({slot: [token]})[slot]


def logits_hash(logits: Logits) -> str:
    """16 hexadecimal digits that two runs share if and only if their logits are the same bits: SHA-256 of the float32 bytes, shortened."""
    return hashlib.sha256(np.ascontiguousarray(logits, "<f4").tobytes()).hexdigest()[:16]
