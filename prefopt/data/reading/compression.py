"""Opens a file for its bytes, decompressed if its first bytes say that they are compressed, whatever its name is."""

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

SUFFIXES = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz", ".zst": "zstd"}
"""Suffix -> what the data are compressed with."""

ERRORS = (EOFError, zlib.error, lzma.LZMAError, OSError)
"""What reading a damaged file raises."""

BUFFER = 1 << 16

_MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


def compression_of(head: bytes) -> str | None:
    """What the data that begin so are compressed with; None where they are not."""
    return next((name for magic, name in _MAGIC.items() if head.startswith(magic)), None)


def opened(path: Path, compression: str | None) -> io.BufferedReader:
    """Open a file for reading its bytes, decompressed."""
    if compression is None:
        return io.BufferedReader(io.FileIO(path), BUFFER)
    return io.BufferedReader(_Decompressed(_DECOMPRESS[compression](path)), BUFFER)


class _Decompressed(io.RawIOBase):
    """Decompressed bytes as they come, so that those before damaged ones are read before these raise."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._file.read1(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


def _zstd(path: Path) -> Any:
    # pyarrow is a dependency and says when the data are cut off; the standard library has zstd from Python 3.14 on.
    import pyarrow

    return pyarrow.CompressedInputStream(pyarrow.OSFile(str(path)), "zstd")


_DECOMPRESS: dict[str, Callable[[Path], IO[bytes] | Any]] = {
    "gzip": gzip.open,
    "bzip2": bz2.open,
    "xz": lzma.open,
    "zstd": _zstd,
}
