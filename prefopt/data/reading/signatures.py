"""Tells from the first bytes of a file what it is, where it is none that rows are read from.

The signatures are those of the formats' specifications, most of which the list at
https://en.wikipedia.org/wiki/List_of_file_signatures has too.
"""

HEAD = 1 << 16
"""How many bytes a file is recognised by."""

CONVERT = "save its rows as jsonl or csv with the program that wrote it"
UNPACK = "unpack it, and give the file or folder that comes out"

_BEGINNINGS: tuple[tuple[bytes, str, str], ...] = (
    (
        b"version https://git-lfs.github.com/spec/",
        "a Git LFS pointer, not the data",
        "run `git lfs pull` in its folder",
    ),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", UNPACK),
    (b"Rar!\x1a\x07", "a RAR archive", UNPACK),
    (b"\x04\x22\x4d\x18", "lz4 data", "decompress it with `lz4 -d`"),
    (b"\x1f\x9d", "data of Unix compress", "decompress it with `uncompress`"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Excel or Word document", "save its table as csv, in UTF-8"),
    (
        b"SQLite format 3\x00",
        "an SQLite database",
        "export its table: `sqlite3 -header -csv FILE 'select * from TABLE'`",
    ),
    (b"%PDF-", "a PDF document", "give the data that it was made from"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file", CONVERT),
    (b"\x93NUMPY", "a NumPy array", CONVERT),
    (b"GGUF", "a GGUF model", "give the data, not the model"),
    (b"Obj\x01", "an Avro file", CONVERT),
    (b"ORC", "an ORC file", CONVERT),
    (b"FEA1", "a Feather file of version 1", "write it anew, with `pyarrow.feather.write_feather`"),
    (b"\x89PNG", "a PNG image", "give the data that it shows"),
    (b"\xff\xd8\xff", "a JPEG image", "give the data that it shows"),
)

_ZIPPED: tuple[tuple[bytes, str, str], ...] = (
    (b"xl/", "an Excel workbook", "save its sheet as csv, in UTF-8"),
    (b"word/", "a Word document", "save its rows as csv or jsonl"),
    (b"data.pkl", "a PyTorch checkpoint", "give the data, not the model"),
    (b".npy", "a NumPy archive", CONVERT),
)


def foreign(head: bytes) -> str | None:
    """What the file is that begins so, and what to do; None where rows may be in it.

    A pickle is not opened: that would run what its author wrote.
    """
    for beginning, what, remedy in _BEGINNINGS:
        if head.startswith(beginning):
            return f"is {what}: {remedy}"
    if head.startswith(b"PK\x03\x04") or head.startswith(b"PK\x05\x06"):
        return next((f"is {what}: {do}" for name, what, do in _ZIPPED if name in head), f"is a zip archive: {UNPACK}")
    if head[257:262] == b"ustar":
        return f"is a tar archive: {UNPACK}"
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "is a Python pickle, which can run code when it is opened: have its author save the rows as jsonl"
    if _is_safetensors(head):
        return "is a safetensors file, the weights of a model: give the data, not the model"
    return _markup(head)


def _is_safetensors(head: bytes) -> bool:
    """A length in eight bytes, then as much JSON."""
    return head[8:9] == b"{" and head[7:8] == b"\x00" and 0 < int.from_bytes(head[:8], "little") < 1 << 30


def _markup(head: bytes) -> str | None:
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:64].lower()
    if start.startswith((b"<!doctype html", b"<html", b"<head")):
        return "is a web page, perhaps an error or a login page saved as data: download the data itself again"
    if start.startswith((b"<?xml", b"<!doctype")):
        return f"is an XML document: {CONVERT}"
    return None
