"""The report of how often reward models rank pairs right: a table, as Markdown, CSV and LaTeX, and the numbers."""

from __future__ import annotations

import json
from pathlib import Path

from ...utils import files
from ..measure import ACCURACY_LEVEL, Accuracy, RewardAccuracies
from .markdown import as_table, escaped
from .number_format import MISSING, number, p_value
from .table_files import write_tables
from .tables import Cell, Column, Table

JSON, MARKDOWN = "accuracy.json", "accuracy.md"
TEXTS = {
    "en": {
        "title": "Accuracy of reward models",
        "category": "category",
        "whole": "all pairs",
        "balanced": "mean of categories",
        "p": "p against {first}",
        "about": (
            "The share of pairs whose chosen response scores higher, a tie counted a half, with Wilson's {level:.0%} "
            "interval over pairs. p: McNemar's exact test on all pairs, Holm-corrected over models."
        ),
    },
    "zh": {
        "title": "奖励模型的准确率",
        "category": "类别",
        "whole": "全部样本对",
        "balanced": "各类别均值",
        "p": "相对 {first} 的 p 值",
        "about": (
            "被选回答得分更高的样本对所占比例，平局计一半；区间为样本对上的 Wilson {level:.0%} 区间。"
            "p 值：全部样本对上的 McNemar 精确检验，按模型数作 Holm 校正。"
        ),
    },
}


def accuracy_table(found: RewardAccuracies, lang: str = "en") -> Table:
    """A row for each category, then for all together; a column for each model.

    Raises:
        ValueError: no such language.
    """
    if lang not in TEXTS:
        raise ValueError(f"a report in {lang!r}: there are texts in {', '.join(TEXTS)}")
    texts, models = TEXTS[lang], list(found.whole)
    columns = [Column("category", texts["category"]), *(Column(model, model) for model in models)]
    rows = []
    if found.by is not None:
        for category in found.categories[models[0]]:
            rows.append([Cell(category), *(_cell(found.categories[model][category]) for model in models)])
        means = (Cell(number(found.balanced[m], ".1%"), order=found.balanced[m]) for m in models)
        rows.append([Cell(texts["balanced"]), *means])
    rows.append([Cell(texts["whole"]), *(_cell(found.whole[model]) for model in models)])
    if found.p:
        p = (Cell(p_value(found.p[m]), order=found.p[m]) if m in found.p else Cell(MISSING) for m in models)
        rows.append([Cell(texts["p"].format(first=models[0])), *p])
    return Table(texts["title"], columns, rows, sortable=False, about=texts["about"].format(level=ACCURACY_LEVEL))


def _cell(value: Accuracy) -> Cell:
    low, high = number(value.low, ".1%"), number(value.high, ".1%")
    tied = f", {value.ties}=" if value.ties else ""
    bounds = (value.low, value.high)
    return Cell(number(value.mean, ".1%"), f"[{low}, {high}] n={value.pairs}{tied}", order=value.mean, bounds=bounds)


def write_accuracies(found: RewardAccuracies, folder: Path, lang: str = "en") -> Path:
    """Write all forms of the report into a folder; returns the path of the Markdown."""
    table = accuracy_table(found, lang)
    files.replace(folder / JSON, json.dumps(found.plain(), ensure_ascii=False, indent=1))
    write_tables({"accuracy": table}, folder)
    files.replace(folder / MARKDOWN, f"# {table.caption}\n\n{escaped(table.about)}\n\n{as_table(table)}\n")
    return folder / MARKDOWN
