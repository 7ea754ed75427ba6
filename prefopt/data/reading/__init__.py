"""Reads raw rows from a file, folder, dataset or hub id, each with its place, such as "file.jsonl:3".

What a row means is not decided here but by an adapter (`adapters/`). `sources` tells what a source is, `folders` which
files make up a split, `files` what a file is by its first bytes, `signatures` what it is if it holds no rows; `text`,
`json_rows`, `json_layouts`, `delimited` and `tables` read.

JSON is read here and not by `datasets`, which accepts missing keys and mixed types without a word, reports row numbers
relative to a block, and reuses a stale cache when a file changes within one tick of its clock. Nothing here is cached.
"""

from .rows import Located as Located
from .rows import Row as Row
from .sources import HUB_ID as HUB_ID
from .sources import Source as Source
from .sources import read_rows as read_rows
