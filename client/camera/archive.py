"""Arrays out of an .npz that a stranger may have written: headers are checked before allocating."""

from __future__ import annotations

import math
import struct
import tokenize
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from carpool.client.camera.pictures import MAX_BYTES
from carpool.privacy.errors import DataError

KINDS = "buifU"
"""Booleans, integers, floats and (for the schema) text; never objects, which would need pickle."""
DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    OSError,
    EOFError,
    ValueError,
    KeyError,
    RuntimeError,
    NotImplementedError,
    OverflowError,
    SyntaxError,
    TypeError,
    struct.error,
    tokenize.TokenError,
)


@dataclass(frozen=True)
class Header:
    """Shape and dtype that an array claims, checked against the bytes that are there."""

    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]


class Archive:
    """The checked table of contents of one .npz; arrays are read when asked for.

    Raises DataError that names the file and the array: not an .npz, a dtype outside KINDS, sizes that do not
    fit the file, more than `limit` bytes.
    """

    def __init__(self, path: Path, limit: int = MAX_BYTES) -> None:
        self.path = path
        if not path.is_file():
            raise DataError(f"data.path {path} is not a file; name an .npz in the layout of docs/data.md")
        try:
            with zipfile.ZipFile(path) as file:
                self.headers = {
                    info.filename[:-4]: self._header(file, info, limit)
                    for info in file.infolist()
                    if info.filename.endswith(".npy")
                }
        except DAMAGED as error:
            raise self._damaged(error) from error

    def __contains__(self, name: str) -> bool:
        return name in self.headers

    def read(self, name: str) -> NDArray[np.generic]:
        """The array of that name; raises DataError if it is not there or its bytes are damaged."""
        self.check_there(name)
        try:
            with np.load(self.path, allow_pickle=False) as arrays:
                array: NDArray[np.generic] = arrays[name]
        except DAMAGED as error:
            raise self._damaged(error) from error
        return array

    def check_there(self, name: str) -> None:
        """Refuse a name that is not in the file; raises DataError with those that are."""
        if name not in self.headers:
            raise DataError(f"{self.path} has no column {name!r}; it has {', '.join(sorted(self.headers))}")

    def integers(self, name: str, shape: tuple[int, ...] | None = None) -> NDArray[np.int64]:
        """A column as int64; raises DataError for another kind or shape, or values beyond int64."""
        self.check_shape(name, shape)
        if self.headers[name].dtype.kind not in "bui":
            raise DataError(
                f"{self.path}: column {name!r} is {self.headers[name].dtype}; it must be whole numbers"
            )
        array = self.read(name)
        if array.dtype == np.uint64 and array.size and int(array.max()) > np.iinfo(np.int64).max:
            raise DataError(f"{self.path}: column {name!r} goes up to {array.max()}; it must fit into int64")
        return array.astype(np.int64)

    def check_shape(self, name: str, shape: tuple[int, ...] | None) -> None:
        """Refuse a missing column and another shape than `shape` (None: any of one dimension), unread."""
        self.check_there(name)
        have = self.headers[name].shape
        if have != shape if shape is not None else len(have) != 1:
            wanted = f"{shape}" if shape is not None else "one-dimensional"
            raise DataError(f"{self.path}: column {name!r} has shape {have}; it must be {wanted}")

    def _header(self, file: zipfile.ZipFile, info: zipfile.ZipInfo, limit: int) -> Header:
        name = info.filename[:-4]
        with file.open(info) as member:
            version = np.lib.format.read_magic(member)
            if version == (1, 0):
                shape, _, dtype = np.lib.format.read_array_header_1_0(member)
            else:
                shape, _, dtype = np.lib.format.read_array_header_2_0(member)
            start = member.tell()
        if dtype.hasobject or dtype.kind not in KINDS:
            raise DataError(f"{self.path}: column {name!r} is {dtype}; write it as integers, floats or text")
        size = math.prod(shape) * dtype.itemsize
        if size > limit:
            raise DataError(
                f"{self.path}: column {name!r} wants {size / 2**30:.1f} GiB, and the limit is "
                f"{limit / 2**30:.1f} GiB; split the file"
            )
        if any(length < 0 for length in shape) or size != info.file_size - start:
            raise DataError(f"{self.path}: column {name!r} does not have the bytes it claims; write it again")
        return Header(shape, dtype)

    def _damaged(self, error: Exception) -> DataError:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        return DataError(f"{self.path} is not a readable .npz ({reason}); write it again with numpy.savez")
