"""`export_labels`: what annotators get, a page that works offline and the same pairs as tables, with the key apart."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ..data.records import Messages, plain_turn
from ..grades import GRADES
from ..utils import files, jsonl
from ..utils.html import in_script, policy, sound
from .judgment import LABELS
from .pairs import LabelPair
from .store import ANNOTATE, write_key
from .texts import BCP47, COLUMNS, CUT, TEXTS

HERE = Path(__file__).parent
PAGE, TABLE, LINES = "index.html", "pairs.csv", "pairs.jsonl"
TASKS, INTERFACE = "label_studio.json", "label_studio.xml"
FORMAT = "prefopt-labels"
"""What a file that the page saved says it is."""
ODD = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Controls, and marks that turn the direction of what follows; the page shows their codes too."""
CELL = 32_000
"""Longest text of a cell, in characters: Excel takes 32,767 and cuts the rest off without a word.
https://support.microsoft.com/en-us/office/excel-specifications-and-limits-1672b34d-7043-467e-8e27-269d656771c3"""
FORMULAS = ("=", "+", "-", "@", "\t", "\r")
"""How a cell begins that spreadsheets may run (https://owasp.org/www-community/attacks/CSV_Injection)."""


def export_labels(folder: str | Path, pairs: Sequence[LabelPair], *, lang: str = "en") -> Path:
    """Write what annotators get into `folder`/annotate, and beside it the key, which they must not see.

    The same folder may get more pairs later, see `pairs_to_label`: labels of those that it has stay.

    Args:
        lang: "en" or "zh": the language in which the page begins, and of the spreadsheet's headings.

    Returns:
        The page.

    Raises:
        DataError: the folder holds other pairs.
        ValueError: no pairs, or no such language.
    """
    if lang not in TEXTS:
        raise ValueError(f"lang={lang!r}: there are texts in {', '.join(TEXTS)}")
    if not pairs:
        raise ValueError("no pairs to label: see pairs_to_label")
    folder = Path(folder)
    write_key(folder, pairs)  # first, so that nothing is ever labelled whose key is lost
    to_label = folder / ANNOTATE
    shown = [_shown(pair) for pair in pairs]
    in_cells = [{**pair, "prompt": _as_text(pair["prompt"])} for pair in shown]
    jsonl.replace(to_label / LINES, in_cells)
    files.replace(to_label / TASKS, json.dumps(in_cells, ensure_ascii=False, indent=1))
    files.replace(to_label / TABLE, "\ufeff" + _table(in_cells, lang))  # without the mark, Excel garbles Chinese
    files.replace(to_label / INTERFACE, _interface())
    files.replace(to_label / PAGE, _page(shown, lang))
    return to_label / PAGE


def _shown(pair: LabelPair) -> dict[str, Any]:
    """What may be known of a pair: nothing but its id and the texts."""
    a, b = pair.texts
    return {"pair_id": pair.id, "prompt": [plain_turn(turn) for turn in pair.prompt], "a": a, "b": b}


def _as_text(prompt: Messages) -> str:
    """A prompt for a cell: what is said, with the speakers where there are several turns."""
    turns = [(turn["role"], "\n".join(value for name, value in turn.items() if name != "role")) for turn in prompt]
    return turns[0][1] if len(turns) == 1 else "\n\n".join(f"[{role}]\n{text}" for role, text in turns)


def _table(in_cells: Sequence[dict[str, str]], lang: str) -> str:
    names = COLUMNS[lang]
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(names.values())
    for pair in in_cells:
        writer.writerow([_cell(pair.get(name, ""), lang) for name in names])
    return text.getvalue()


def _cell(text: str, lang: str) -> str:
    """Text that a spreadsheet shows and never runs; what it could not hold is said."""
    text = ODD.sub(lambda match: f"[U+{ord(match[0]):04X}]", text)
    if len(text) > CELL:
        text = text[:CELL] + CUT[lang].format(more=len(text) - CELL)
    return f"'{text}" if text.startswith(FORMULAS) else text


def _interface() -> str:
    """Label Studio's labelling interface for the tasks in label_studio.json: https://labelstud.io/guide/setup"""
    choices = "\n".join(f"    <Choice value={quoteattr(label)}/>" for label in LABELS)
    return f"""<View>
  <Text name="prompt" value="$prompt"/>
  <Text name="answer_a" value="$a"/>
  <Text name="answer_b" value="$b"/>
  <Choices name="choice" toName="prompt" choice="single" required="true">
{choices}
  </Choices>
  <TextArea name="note" toName="prompt"/>
</View>
"""


def _page(shown: Sequence[dict[str, Any]], lang: str) -> str:
    style, script = ((HERE / name).read_text("utf-8") for name in ("page.css", "page.js"))
    pairs = [{"id": pair["pair_id"], **{name: pair[name] for name in ("prompt", "a", "b")}} for pair in shown]
    data = {"format": FORMAT, "pairs": pairs, "grades": GRADES, "lang": lang, "texts": TEXTS}
    environment = Environment(loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined)
    text = environment.get_template("page.html").render(
        lang=BCP47[lang],
        title=TEXTS[lang]["title"],
        noscript=TEXTS[lang]["noscript"],
        style=style,
        script=script,
        policy=policy(style, script),
        data=in_script(data),
    )
    return sound(text)
