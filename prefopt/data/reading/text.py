"""Reads the lines of a text file, in UTF-8 whatever encoding its byte order mark names; other encodings are named."""

import codecs
import io
import re
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import cast

from ..records import DataError
from ..report import LoadReport
from .compression import BUFFER, ERRORS, compression_of, opened

MARKS = {  # UTF-32's begins like UTF-16's
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
LONGEST = 1 << 26
"""Bytes of the longest line of a compressed file, whose size does not say how much memory its lines take."""
LONGEST_PLAIN = 1 << 30
"""The same of a file that is not compressed, which may be an array of all rows on one line."""
COMMON = 0.9
"""Of Chinese text in GB18030, at least this share of the Chinese characters is among the 3,755 of GB 2312's level 1."""


def lines(path: Path, report: LoadReport) -> Iterator[tuple[int, bytes]]:
    """Yield numbered lines in UTF-8; of a damaged compressed file, those before the damage, which is reported.

    Raises:
        DataError: the file cannot be read, or is in another encoding as a whole. A line that is not UTF-8 is given
            as it is.
    """
    number, compression = 0, None
    try:
        with path.open("rb") as raw:
            compression = compression_of(raw.read(8))
        longest = LONGEST_PLAIN if compression is None else LONGEST
        with opened(path, compression) as file:
            for number, line in enumerate(_utf8(file, path, longest), 1):
                if len(line) > longest:
                    raise DataError(f"{path}:{number}: {_too_long(compression, longest)}")
                yield number, line
    except UnicodeError as error:
        raise DataError(f"{path}:{number + 1}: {_described(error)}: convert the file to UTF-8") from error
    except ERRORS as error:
        if compression is None:
            raise DataError(f"{path}: cannot be read: {error}") from error
        if number == 0:
            raise DataError(f"{path}: not a readable {compression} file: {error}: fetch or write it again") from error
        reason = f"{compression} data is truncated or damaged, the rest of the file is lost"
        report.drop(reason, f"{path}:{number + 1}", str(error))


def _too_long(compression: str | None, longest: int) -> str:
    size = f"this line has more than {longest >> 20:,} MiB"
    if compression is None:
        return f"{size}: write a row a line, as jsonl has them"
    return f"{size} once decompressed: write a row a line, as jsonl has them, or decompress the file yourself"


def _described(error: UnicodeError) -> str:
    """What could not be decoded: no more than a reason is known of a file that ends within a character."""
    return f"bytes are not {error.encoding}: {error.reason}" if isinstance(error, UnicodeDecodeError) else str(error)


def _utf8(file: io.BufferedReader, path: Path, longest: int) -> Iterable[bytes]:
    """The lines in UTF-8, without a byte order mark; of one that is longer than `longest` a part that is, too."""
    head = file.peek(BUFFER)
    for mark, encoding in MARKS.items():
        if head.startswith(mark):
            if encoding != "utf-8":
                text = io.TextIOWrapper(file, encoding, newline="\n")
                return (line.encode() for line in iter(partial(text.readline, longest + 1), ""))
            file.read(len(mark))
            return iter(partial(file.readline, longest + 1), b"")
    if found := _other_encoding(head):
        raise DataError(
            f"{path}: text in {found}, not UTF-8: convert it with `iconv -f {found} -t UTF-8 {path.name} > NEW_FILE`"
        )
    return iter(partial(file.readline, longest + 1), b"")


def _other_encoding(head: bytes) -> str | None:
    """The encoding of a text without a mark, where it is not UTF-8 and another one fits."""
    if len(head) >= 4 and [byte > 0 for byte in head[:4]] == [True, False] * 2:  # two characters of ASCII
        return "UTF-16LE"
    if len(head) >= 4 and [byte > 0 for byte in head[:4]] == [False, True] * 2:
        return "UTF-16BE"
    foreign = [line for line in head.split(b"\n")[: -1 if len(head) >= BUFFER else None] if not line.isascii()]
    return "GB18030" if foreign and all(not _decodes(line) for line in foreign) and _is_chinese(foreign) else None


def _decodes(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def _is_chinese(foreign: list[bytes]) -> bool:
    """Whether lines are common Chinese text in GB18030, in which most sequences of bytes stand for some character."""
    try:
        text = b"\n".join(foreign).decode("gb18030")
    except UnicodeDecodeError:
        return False
    characters = re.findall(r"[^\x00-\xff\u2010-\u303f\uff00-\uffef]", text)
    common = [c for c in characters if b"\xb0\xa1" <= c.encode("gb2312", "replace") <= b"\xd7\xfe"]
    return len(common) >= max(4, COMMON * len(characters))


def decoded(numbered: Iterable[tuple[int, bytes]], path: Path) -> Iterator[str]:
    """Decode lines of which none can be left out.

    Raises:
        DataError: a line is not UTF-8.
    """
    for number, line in numbered:
        try:
            yield cast(str, line.decode())
        except UnicodeDecodeError as error:
            place = f"byte {error.start + 1} of the line"
            raise DataError(f"{path}:{number}: bytes are not UTF-8, {place}: convert the file or mend it") from error
