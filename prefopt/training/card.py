"""A model card (`README.md`) from the record of a training: what the model is, how it is loaded, what made it.

The header is the hub's: https://huggingface.co/docs/hub/model-cards.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

CARD = "README.md"
MARK = "<!-- Written by prefopt, anew with each save. Take this line out, and the page stays as you edit it. -->"
EMPTY = "# Model Card for Model ID"
"""The title of the page that PEFT writes, in which every answer is missing."""
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")

LOADING = {
    "policy": """\
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("{folder}")
tokenizer = AutoTokenizer.from_pretrained("{folder}")
""",
    "policy adapter": """\
from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer

model = AutoPeftModelForCausalLM.from_pretrained("{folder}")
tokenizer = AutoTokenizer.from_pretrained("{folder}")
""",
    "reward model": """\
from prefopt.scoring import scorer_from

score = scorer_from("{folder}")
score.score([[{{"role": "user", "content": "a question"}}]], ["an answer"])
""",
}
COMMANDS = {
    "policy": ("prefopt chat {folder}",),
    "policy adapter": ("prefopt chat {folder}", "prefopt merge {folder} --output_dir {folder}-merged"),
    "reward model": ("prefopt evaluate {folder} --data pairs.jsonl",),
}


def is_ours(text: str) -> bool:
    """Whether a page was written here, or by PEFT with nothing in it: it may be written anew."""
    return MARK in text or EMPTY in text


def is_hub_id(name: str | None) -> bool:
    """Whether a name is one of the hub's, and no path here."""
    return bool(name and HUB_ID.fullmatch(name)) and not Path(str(name)).exists()


def card_of(record: Mapping[str, Any]) -> str:
    """The page of a record, its header of YAML included."""
    kind = record["model"]
    parts = [f"# {title(record)}", MARK, _about(record)]
    if kind != "critic":
        form = f"{kind} adapter" if record["adapter"] and kind == "policy" else kind
        parts += ["## Use", _fenced("python", LOADING[form].format(folder="this/folder"))]
        parts += [_fenced("", "\n".join(line.format(folder="this/folder") for line in COMMANDS[form]) + "\n")]
    parts += ["## Training", _table(("", ""), _facts(record))]
    if record["metrics"]:
        parts += ["## Metrics", _metrics(record["metrics"])]
    if record["arguments"]:
        arguments = yaml.safe_dump(record["arguments"], sort_keys=True, allow_unicode=True)
        parts += ["## Arguments", "Those that are not at their defaults.", _fenced("yaml", arguments)]
    return f"---\n{_header(record)}---\n\n" + "\n\n".join(parts) + "\n"


def title(record: Mapping[str, Any]) -> str:
    """What the model is, in a line."""
    base = str(record.get("base_model", "a model")).rstrip("/").split("/")[-1]
    return f"{'Critic of ' if record['model'] == 'critic' else ''}{record['method']} of {base}"


def _header(record: Mapping[str, Any]) -> str:
    adapter, base, data = record["adapter"], record.get("base_model"), record.get("data")
    tags = [
        "prefopt",
        str(record["command"] or record["method"]).lower(),
        *([adapter["kind"].lower()] if adapter else []),
    ]
    header = {
        "base_model": base if is_hub_id(base) else None,
        "datasets": [data] if is_hub_id(data) else None,
        "library_name": "peft" if adapter else "transformers",
        "pipeline_tag": "text-generation" if record["model"] == "policy" else "text-classification",
        "tags": tags,
    }
    return yaml.safe_dump({name: value for name, value in header.items() if value}, sort_keys=False)


def _about(record: Mapping[str, Any]) -> str:
    what = {
        "policy": "A language model",
        "critic": "The critic of a language model, which values each token of its responses,",
        "reward model": "A reward model, which gives one score to each response,",
    }[record["model"]]
    if record["adapter"]:
        what = f"An adapter ({record['adapter']['kind']}): {what[0].lower()}{what[1:]}"
    base, data = record.get("base_model", "a model"), record.get("data", "rows")
    rows = f"{record['rows']:,} rows of " if isinstance(record["rows"], int) else ""
    return f"{what} trained by {record['method']} from `{base}` on {rows}`{data}`, with prefopt."


def _facts(record: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    objective = ", ".join(f"{name} {value}" for name, value in record["objective"].items() if _is_told(name, value))
    facts = {
        "method": f"{record['method']} ({objective})" if objective else record["method"],
        "base model": record.get("base_model"),
        "adapter": record["adapter"] and ", ".join(f"{name} {value}" for name, value in record["adapter"].items()),
        "reference": record.get("reference"),
        "scorer": record.get("scorer"),
        "data": record.get("data"),
        "rows": record["rows"],
        "held-out data": record.get("held_out_data"),
        "held-out rows": record["held_out_rows"],
        "steps": record["steps"],
        "epochs": record["epochs"],
        "trained by": record["trained_by"],
        "versions": ", ".join(f"{name} {value}" for name, value in record["versions"].items()),
    }
    return [(name, str(value)) for name, value in facts.items() if value]


def _is_told(name: str, value: Any) -> bool:
    return name in ("loss_type", "beta", "margin", "mode", "preset", "iterations") and bool(value)


def _metrics(metrics: Mapping[str, Mapping[str, float]]) -> str:
    """Each metric of the last steps that were logged, and of held-out rows."""
    last, held_out = metrics.get("last_steps", {}), metrics.get("held_out", {})
    names = [name for name in dict.fromkeys([*last, *held_out]) if name not in ("epoch", "step", "num_tokens")]

    def shown(values: Mapping[str, float], name: str) -> str:
        return f"{values[name]:.4g}" if name in values else ""

    return _table(
        ("", "last steps logged", "held-out rows"), [(name, shown(last, name), shown(held_out, name)) for name in names]
    )


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in lines)


def _fenced(language: str, text: str) -> str:
    return f"```{language}\n{text}```"
