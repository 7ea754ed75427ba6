"""Fast hashes by which damage is noticed: of files, and of JSON texts that carry their own.

They are no protection from whoever means harm, which needs a slow one: XXH3 reads as fast as memory does.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import xxhash

BLOCK = 1 << 22
SEAL = "seal"


class Damaged(ValueError):
    """A sealed text is not what was written."""


def hash_of(parts: Iterable[Any]) -> str:
    """The hash of bytes, or of anything else whose memory can be read as such, one part after the other."""
    hasher = xxhash.xxh3_128()
    for part in parts:
        hasher.update(part)
    return hasher.hexdigest()


def file_hasher(path: Path, size: int | None = None) -> Any:
    """A hasher that has read a file, or its first `size` bytes."""
    hasher, left = xxhash.xxh3_128(), size
    with path.open("rb", buffering=0) as file:
        while part := file.read(BLOCK if left is None else min(BLOCK, left)):
            hasher.update(part)
            left = None if left is None else left - len(part)
    return hasher


def hash_of_file(path: Path, size: int | None = None) -> str:
    """The hash of a file, or of its first `size` bytes."""
    return str(file_hasher(path, size).hexdigest())


def sealed(value: Mapping[str, Any]) -> str:
    """A JSON text of `value` that also holds its hash."""
    return json.dumps(seal(value), indent=2)


def seal(value: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON object that also holds its hash."""
    return {**value, SEAL: _seal(value)}


def unsealed(text: str | bytes) -> dict[str, Any]:
    """What `sealed` was given; a text without a seal, as earlier versions wrote it, is taken as it is.

    Raises:
        Damaged: it is not what was written.
    """
    try:
        value = json.loads(text)
    except ValueError as error:
        raise Damaged(f"no JSON ({error})") from error
    if not isinstance(value, dict):
        raise Damaged("no JSON object")
    return unseal(value)


def unseal(value: Mapping[str, Any]) -> dict[str, Any]:
    """What `seal` was given; an object without a seal is taken as it is.

    Raises:
        Damaged: it is not what was sealed.
    """
    content = {name: part for name, part in value.items() if name != SEAL}
    if SEAL in value and value[SEAL] != _seal(content):
        raise Damaged("its content does not fit its seal")
    return content


def _seal(value: Mapping[str, Any]) -> str:
    return hash_of([json.dumps(value, sort_keys=True).encode()])
