"""Write a packed file so that it appears complete or not at all.

Arrays are spooled (spool.py). `finish` writes header and data to a new file next to the output, syncs it, reads it back, verifies it, and
only then renames it. A failure at any moment leaves no file. While `finish` runs, the disk needs room for the data twice: the header
comes first, and has the checksum of every array.

A spool with its own path outlives the process: `state` says what it holds, and `restore` of another writer continues from there.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from importlib import metadata as installed
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkvquant.architectures import Architecture, Dims, architecture
from rwkvquant.architectures.image import ImageSettings
from rwkvquant.codecs import PackedTensor, QTensor
from rwkvquant.codecs.packing import Sizes, aligned, pad
from rwkvquant.errors import ConfigError, FormatError
from rwkvquant.formats import disk
from rwkvquant.formats.header import encode_header
from rwkvquant.formats.images import KEY as IMAGE
from rwkvquant.formats.images import encode_image
from rwkvquant.formats.model import decode_dims, encode_model
from rwkvquant.formats.reader import FORMAT, FORMAT_VERSION, TOKENIZER_PREFIX, open_packed
from rwkvquant.formats.spool import Spool
from rwkvquant.formats.table import TensorEntry, TransformEntry, decode_table, encode_table, transform_array
from rwkvquant.formats.tokenizer_data import TokenizerData
from rwkvquant.kernels.tiles import padded
from rwkvquant.transforms import Applied

DISTRIBUTION = "rwkv-hybridquant"
MAX_NAME_BYTES = 200  # file systems allow 255, and the name of the unfinished file is longer


def check_output(path: Path | str, *inputs: Path | str) -> None:
    """Raises ConfigError if no file can be written there, or if it is one of `inputs`. Call it before hours of work, not after."""
    path = Path(path)
    if any(path.exists() and Path(source).exists() and path.samefile(source) for source in inputs):
        raise ConfigError(f"the output must not be an input; {path} would be overwritten. Try another name")
    if path.is_dir():
        raise ConfigError(f"the output must be a file; {path} is a directory. Try {path / 'model.safetensors'}")
    if why := disk.why_no_file(path):
        raise ConfigError(f"{path} cannot be the output: {why}")
    if not path.parent.is_dir() and path.parts[0].startswith("~"):
        raise ConfigError(
            f"the shell puts the home folder for ~ at the start of a word only; there is no folder named {path.parts[0]}. Try: -o {path}"
        )
    if not path.parent.is_dir():
        raise ConfigError(f"the output's directory must exist; {path.parent} does not. Try: mkdir -p {path.parent}")
    if len(os.fsencode(path.name)) > MAX_NAME_BYTES:
        raise ConfigError(f"the output's name may have {MAX_NAME_BYTES} bytes; got {len(os.fsencode(path.name))}. Try a shorter one")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise ConfigError(f"the output's directory must be writable; {path.parent} is not")


class ContainerWriter:
    """Add tensors one by one, then finish. Use it as a context manager, or call `close` if `finish` is never reached."""

    def __init__(self, path: Path | str, spool: Path | None = None) -> None:
        """`spool` None is a file without a name next to the output. One process at a time may use a spool that has a name."""
        check_output(path)
        self.path = Path(path)
        self._entries: dict[str, TensorEntry] = {}
        self._spool = Spool(self.path, spool)

    def __enter__(self) -> ContainerWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Release the spool. Does no harm after `finish`."""
        self._spool.close()

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def state(self) -> str:
        """Write the spool to the disk; returns what it holds, for `restore`. Raises RwkvQuantError for a full disk."""
        self._spool.sync()
        return encode_table(list(self._entries.values()))

    def restore(self, state: str) -> None:
        """Continue from the `state` of another process's writer. Raises FormatError if the spool has not all of it, or it is damaged."""
        entries, checksums = decode_table(state), dict[str, int]()
        arrays: Sizes = {}
        for entry in entries.values():
            arrays |= entry.sizes()  # in the order they were spooled
            checksums |= dict(entry.arrays())
        self._spool.restore(arrays, checksums)
        self._entries = entries

    def add(
        self,
        name: str,
        qtensor: QTensor,
        *,
        role: str,
        method: str,
        source_shape: tuple[int, ...] | None = None,
        transposed: bool = False,
        layout: str | None = None,
        input_transform: Applied | None = None,
        **extra: Any,
    ) -> TensorEntry:
        """Pack a tensor and spool it. `source_shape` is the shape in the checkpoint (of the slice, if it is one); by default the tensor's.

        If `qtensor` is for a transformed input, `input_transform` is that transform. Raises FormatError for a name, role, layout or
        transform that cannot be stored, RwkvQuantError for a full disk.
        """
        return self.add_packed(
            name,
            PackedTensor.pack(qtensor, layout),
            role=role,
            method=method,
            source_shape=source_shape,
            transposed=transposed,
            input_transform=input_transform,
            **extra,
        )

    def add_packed(
        self,
        name: str,
        packed: PackedTensor,
        *,
        role: str,
        method: str,
        source_shape: tuple[int, ...] | None = None,
        transposed: bool = False,
        input_transform: Applied | None = None,
        **extra: Any,
    ) -> TensorEntry:
        """Spool a tensor that is packed already. Raises as `add` does."""
        packed.check()
        applied = input_transform or Applied()
        assert not applied.folded, f"what makes the input of {name} applies its transform, so the file must not have it"
        extra_arrays = pad(applied.arrays, aligned(applied.transform.sizes(applied.values, packed.shape[-1])))
        transform = TransformEntry(
            applied.name, applied.values, {suffix: zlib.crc32(_raw(array)) for suffix, array in extra_arrays.items()}
        )
        checksums = {suffix: zlib.crc32(_raw(array)) for suffix, array in packed.arrays.items()}
        source = tuple(int(n) for n in (source_shape or packed.shape))
        entry = TensorEntry(name, str(role), method, packed.packing, source, transposed, checksums, transform, extra)
        entry.check()
        _json(extra)  # a value that is not JSON should fail here, not after the last tensor
        if name in self._entries:
            raise FormatError(f"a packed file has each tensor once; {name} was added twice")
        for suffix, array in packed.arrays.items():
            self._spool.put(f"{name}.{suffix}", array)
        for suffix, array in extra_arrays.items():
            self._spool.put(transform_array(name, suffix), array)
        self._entries[name] = entry
        return entry

    def finish(
        self,
        *,
        model: Mapping[str, Any],
        quantization_config: Mapping[str, Any],
        provenance: Mapping[str, Any],
        tokenizer: TokenizerData | None = None,
        image: ImageSettings | None = None,
    ) -> None:
        """Write, sync, verify and rename. `model` is {"arch": ..., "dims": Dims or its fields as a mapping}, and may have "modality".

        A text model has a `tokenizer`, and a model for images has `image`. Raises FormatError if the file would break docs/format.md,
        RwkvQuantError for a full disk. Either leaves no file.
        """
        metadata = self._metadata(model, quantization_config, provenance)
        metadata |= self._of_modality(architecture(model["arch"]), tokenizer, image)
        metadata["tensors"] = encode_table(list(self._entries.values()))
        header = encode_header(metadata, self._spool.arrays)
        try:
            with disk.atomic_write(self.path, again=self._job()) as out:
                disk.write_all(out, header)
                self._spool.copy_to(out)
                out.flush()
                os.fsync(out.fileno())  # verify what is on the disk
                self._verify(Path(out.name))
        finally:
            self.close()

    def _job(self) -> str | None:
        """The same name in every run, if another process can continue from the spool."""
        return None if self._spool.path is None else f"{zlib.crc32(os.fsencode(self._spool.path.resolve())):08x}"

    def _verify(self, partial: Path) -> None:
        try:
            open_packed(partial).verify()
        except FormatError as error:
            raise FormatError(str(error).replace(str(partial), str(self.path))) from None

    def _of_modality(self, own: Architecture, tokenizer: TokenizerData | None, image: ImageSettings | None) -> dict[str, str]:
        if (tokenizer is None) != (own.modality == "image") or (image is None) == (own.modality == "image"):
            raise FormatError(f"a text model has a tokenizer, and a model for images has image settings; {own.title} is for {own.modality}")
        if image is not None:
            return {IMAGE: encode_image(image)}
        assert tokenizer is not None
        return {"tokenizer": self._put_tokenizer(tokenizer)}

    def _metadata(self, model: Mapping[str, Any], quantization_config: Mapping[str, Any], provenance: Mapping[str, Any]) -> dict[str, str]:
        dims = model["dims"]
        if not isinstance(dims, Dims):
            dims = decode_dims(architecture(model["arch"]), dict(dims))
        config = {"quant_method": FORMAT, "version": FORMAT_VERSION} | dict(quantization_config)
        package = {"package": DISTRIBUTION, "package_version": package_version()}
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "model": encode_model(model["arch"], dims, model.get("modality")),
            "quantization_config": _json(config),
            "provenance": _json(package | dict(provenance)),
        }

    def _put_tokenizer(self, tokenizer: TokenizerData) -> str:
        arrays = {}
        for suffix, array in tokenizer.arrays.items():
            full = np.zeros(padded(array.size, 64), np.uint8)
            full[: array.size] = array
            arrays[suffix] = {"bytes": array.size, "crc32": f"{zlib.crc32(_raw(full)):08x}"}
            self._spool.put(TOKENIZER_PREFIX + suffix, full)
        return _json({"kind": tokenizer.kind, "meta": tokenizer.meta, "arrays": arrays})


def _raw(array: NDArray[Any]) -> memoryview:
    return array.view(np.uint8).data


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def package_version() -> str:
    try:
        return installed.version(DISTRIBUTION)
    except installed.PackageNotFoundError:
        return "unknown"
