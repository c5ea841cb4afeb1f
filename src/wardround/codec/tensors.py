"""Named arrays as one flat vector with a manifest, in a safetensors file.

A model, and an update of it, is a safetensors file: eight bytes little-endian header length, a JSON
header, then the arrays one after another, row-major, little-endian. The header is a pure function of
the manifest (`header`), so checking names, shapes and dtypes of a received file is one comparison,
and everything after it is one flat vector that can be cut into chunks.

    file = header(manifest) + vector        len(vector) == manifest_bytes(manifest)

Models are ``float32``, ``float16`` or ``bfloat16``, statistics ``float64``; integer buffers stay where they are.
``bfloat16`` is the upper half of a ``float32``; numpy knows it through `ml_dtypes`.

References:
    Safetensors format, https://huggingface.co/docs/safetensors
"""

import math
from collections.abc import Mapping, Sequence

import ml_dtypes
import msgspec
import numpy as np
import numpy.typing as npt

from wardround.errors import CodecError, TensorMismatchError

__all__ = [
    "MAX_HEADER_BYTES",
    "MODEL_DTYPES",
    "Manifest",
    "TensorSpec",
    "check_finite",
    "check_header",
    "check_size",
    "columns",
    "file_bytes",
    "flat_dtype",
    "header",
    "manifest_bytes",
    "pack",
    "split",
    "unpack",
]

MAX_HEADER_BYTES = 8 * 1024 * 1024
MODEL_DTYPES = ("float32", "float16", "bfloat16")
_ITEM_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}
_SAFETENSORS_DTYPE = {"float16": "F16", "bfloat16": "BF16", "float32": "F32", "float64": "F64"}


class TensorSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Name, shape and dtype of one array."""

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"


Manifest = tuple[TensorSpec, ...]
"""All arrays of a model, in the order in which they lie in the vector. One dtype throughout."""


def flat_dtype(manifest: Manifest) -> np.dtype[np.floating]:
    """The dtype of the flat vector.

    Raises:
        CodecError: The manifest is empty, mixes dtypes, repeats a name, or has a dtype or shape that cannot travel.
    """
    names = [spec.name for spec in manifest]
    if not names or len(set(names)) != len(names) or "__metadata__" in names:
        raise CodecError("a manifest needs at least one array, and every name once")
    dtypes = {spec.dtype for spec in manifest}
    if len(dtypes) != 1 or not dtypes <= _ITEM_BYTES.keys():
        known = ", ".join(_ITEM_BYTES)
        raise CodecError(f"a manifest has one dtype, of {known}; found {', '.join(sorted(dtypes))}")
    if any(side < 0 for spec in manifest for side in spec.shape):
        raise CodecError("a shape has a negative side")
    name = dtypes.pop()
    return np.dtype(ml_dtypes.bfloat16) if name == "bfloat16" else np.dtype(name).newbyteorder("<")


def manifest_bytes(manifest: Manifest) -> int:
    """Length of the flat vector in bytes."""
    return sum(math.prod(spec.shape) * _ITEM_BYTES[spec.dtype] for spec in manifest)


def columns(manifest: Manifest) -> int:
    """Length of the flat vector in elements."""
    return manifest_bytes(manifest) // flat_dtype(manifest).itemsize


def header(manifest: Manifest) -> bytes:
    """The bytes before the vector; padded with spaces so that the vector starts at a multiple of 64."""
    flat_dtype(manifest)
    entries: dict[str, object] = {}
    start = 0
    for spec in manifest:
        stop = start + math.prod(spec.shape) * _ITEM_BYTES[spec.dtype]
        entries[spec.name] = {
            "dtype": _SAFETENSORS_DTYPE[spec.dtype],
            "shape": list(spec.shape),
            "data_offsets": [start, stop],
        }
        start = stop
    text = msgspec.json.encode(entries)
    text += b" " * (-(8 + len(text)) % 64)
    if len(text) > MAX_HEADER_BYTES:
        raise CodecError(f"a manifest may take {MAX_HEADER_BYTES} bytes, this takes {len(text)}")
    return len(text).to_bytes(8, "little") + text


def file_bytes(manifest: Manifest) -> int:
    """Length of a whole file in bytes: header and vector."""
    return len(header(manifest)) + manifest_bytes(manifest)


def check_size(size: int, manifest: Manifest) -> None:
    """Refuse a file of another length than the manifest's.

    Raises:
        TensorMismatchError: Too large or too small.
    """
    expected = file_bytes(manifest)
    if size != expected:
        word = "large" if size > expected else "small"
        raise TensorMismatchError(f"too {word}: the plan's arrays take {expected} bytes, this has {size}")


def check_header(start: bytes | memoryview, manifest: Manifest) -> None:
    """Refuse a file whose first bytes are not the manifest's header; say what differs.

    Raises:
        TensorMismatchError: Another name, shape or dtype, or no header at all.
    """
    expected = header(manifest)
    if bytes(start[: len(expected)]) == expected:
        return
    raise TensorMismatchError(_difference(bytes(start), manifest))


def check_finite(chunk: npt.NDArray[np.floating]) -> None:
    """Refuse a chunk with NaN or infinity.

    Raises:
        TensorMismatchError: Some value is not finite.
    """
    # A sum is not finite when any term is not, and costs a tenth of isfinite().all(); only a
    # suspicious sum (which may also have overflowed) pays for the exact answer.
    with np.errstate(over="ignore", invalid="ignore"):
        suspicious = not np.isfinite(np.sum(chunk, dtype=np.result_type(chunk.dtype, np.float32)))
    if suspicious and not np.isfinite(chunk).all():
        bad = int(chunk.size - np.isfinite(chunk).sum())
        raise TensorMismatchError(f"{bad} of {chunk.size} values are NaN or infinite")


def pack(arrays: Mapping[str, npt.NDArray[np.floating]], manifest: Manifest) -> bytes:
    """One file's bytes from named arrays; for vectors that fit in memory comfortably.

    Raises:
        TensorMismatchError: The arrays are not the manifest's.
    """
    dtype = flat_dtype(manifest)
    if set(arrays) != {spec.name for spec in manifest}:
        raise TensorMismatchError("the arrays' names are not the manifest's")
    parts = [header(manifest)]
    for spec in manifest:
        array = np.asarray(arrays[spec.name])
        if array.shape != spec.shape or array.dtype != dtype:
            raise TensorMismatchError(
                f"array {spec.name!r}: expected {spec.dtype} {spec.shape}, found {array.dtype} {array.shape}"
            )
        parts.append(np.ascontiguousarray(array).tobytes())
    return b"".join(parts)


def unpack(data: bytes | memoryview, manifest: Manifest) -> dict[str, npt.NDArray[np.floating]]:
    """Named read-only views into one file's bytes, everything checked.

    Raises:
        TensorMismatchError: Size, header or finiteness are not as they should be.
    """
    check_size(len(data), manifest)
    check_header(data, manifest)
    dtype = flat_dtype(manifest)
    flat = np.frombuffer(data, dtype=dtype, offset=len(header(manifest)))
    check_finite(flat)
    return split(flat, manifest)


def split(flat: npt.NDArray[np.floating], manifest: Manifest) -> dict[str, npt.NDArray[np.floating]]:
    """Named views into a flat vector, in the manifest's shapes; writing to a view writes to the vector."""
    arrays: dict[str, npt.NDArray[np.floating]] = {}
    start = 0
    for spec in manifest:
        stop = start + math.prod(spec.shape)
        arrays[spec.name] = flat[start:stop].reshape(spec.shape)
        start = stop
    return arrays


def _difference(start: bytes, manifest: Manifest) -> str:
    length = int.from_bytes(start[:8], "little")
    if len(start) < 8 or length > len(start) - 8:
        return "no safetensors header where one should be"
    try:
        found = msgspec.json.decode(start[8 : 8 + length], type=dict[str, dict[str, object]])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return "no safetensors header where one should be"
    return _first_difference(found, manifest)


def _first_difference(found: Mapping[str, Mapping[str, object]], manifest: Sequence[TensorSpec]) -> str:
    for spec in manifest:
        entry = found.get(spec.name)
        if entry is None:
            return f"array {spec.name!r} is missing"
        if entry.get("dtype") != _SAFETENSORS_DTYPE[spec.dtype]:
            return f"array {spec.name!r} has another dtype than {spec.dtype}"
        if entry.get("shape") != list(spec.shape):
            return f"array {spec.name!r} has another shape than {spec.shape}"
    return "the arrays are others than the plan's, or in another order"
