"""Secrets that a test plants, and the search for them in all that a command left, within containers too."""

from __future__ import annotations

import gzip
import io
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow.parquet as pq

VARIABLES = {
    name: f"planted-{name.lower().replace('_', '-')}-{number}{number}"
    for number, name in enumerate(
        [
            *("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY", "COMET_API_KEY", "OPENAI_API_KEY"),
            *("AWS_SECRET_ACCESS_KEY", "MY_PASSWORD"),
        ]
    )
}
"""Of the environment, whose names tell them."""
UNTOLD = {"JUDGE": "planted-key-of-a-judge", "SCORER": "planted-key-of-a-scorer"}
"""Of the environment, whose names tell nothing: a setting `key_env` does."""
PROXY = "planted-proxy-password"
HUB, INIT, NESTED, BODY = "planted-hub-token", "planted-init-token", "planted-nested-password", "planted-body-secret"
ALL = [*VARIABLES.values(), *UNTOLD.values(), PROXY, HUB, INIT, NESTED, BODY]


def contents(data: bytes) -> Iterator[bytes]:
    """The bytes of a file, and of what is packed in it: members of zips, gzip, and the values of parquet."""
    yield data
    if data[:4] == b"PK\x03\x04":
        with zipfile.ZipFile(io.BytesIO(data)) as members:
            for name in members.namelist():
                yield from contents(members.read(name))
    elif data[:2] == b"\x1f\x8b":
        yield from contents(gzip.decompress(data))
    elif data[:4] == b"PAR1":
        table = pq.read_table(io.BytesIO(data))
        yield f"{table.to_pylist()} {table.schema.metadata}".encode()


def holding(folder: Path, values: Iterable[str] = ALL) -> list[tuple[str, str]]:
    """Every file below a folder that holds one of the values, with the value."""
    wanted = list(values)
    return [
        (str(path.relative_to(folder)), value)
        for path in folder.rglob("*")
        if path.is_file()
        for part in contents(path.read_bytes())
        for value in wanted
        if value.encode() in part
    ]


def shown(text: str) -> list[str]:
    """Those that a text shows."""
    return [value for value in ALL if value in text]
