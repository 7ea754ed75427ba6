"""The report of `prefopt data check` as text, made for a terminal 80 columns wide. Finds nothing by itself."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..data.findings import ERRORS, REMARKS, FileReport, LengthBias, Part, Report, Sample
from ..data.records import plain_turn
from ..data.row_encoder import UNREAD, UNREAD_KEYS
from ..utils.visible import one_line, visible
from .data_formats import TITLES

WORDS = {
    "contradictions": "rows that say the opposite of an earlier one, to the same prompt",
    "refused": "rows that cannot be encoded",
    "tool_calls_unwritten": "rows lost in training: the chat template does not write their tool calls after the prompt",
    "identical_encoded": "pairs whose answers are the same once encoded",
    "duplicate_rows": "exact duplicates of an earlier row",
    "unread_telling": "columns that are not read, though they tell what rows mean",
    "empty_prompts": "prompts that say nothing",
    "chosen_elsewhere_rejected": "chosen answers that another pair to the same prompt rejects",
    "repeated_answers": "lists that hold an answer twice",
    "one_label": "rows that all have the same label, so that nothing can be compared",
    "text_prompts": "prompts of bare text, beside a chat template: decide by --text_prompts user or verbatim",
    "prompts_cut": "prompts cut to fit max_length",
    "answers_cut": "answers cut to fit max_length",
    "eos_lost": "answers that lose their EOS to max_length",
    "boundary_merges": "answers whose first token would merge with the prompt's last",
    "template_mismatches": "answers the chat template renders otherwise in the whole conversation",
    "answers_dropped": "later answers dropped, as the chat template rewrites an earlier one",
    "sampled_ids_unused": "answers encoded from their text: their sampled ids are of another tokenizer, stop or text",
    "template_inputs_unread": f"rows with {UNREAD}",
    "tool_keys_unread": f"rows with {UNREAD_KEYS}",
    "special_tokens_kept": "rows whose prompt (or bare text) spells a special token, and so gets a real one",
    "special_tokens_split": "rows whose answer (or plain prompt) spells a special token, kept as text",
    "doubled_bos": "prompts that bring their own BOS",
    "doubled_eos": "answers that bring their own EOS",
    "doubled_template": "prompts that already end as the template ends a prompt",
    "empty_answers": "answers that say nothing once encoded",
}
"""What was found, by its name in the report."""

FAULTS = {
    "dropped": "dropped",
    "contradictions": "contradicting",
    "refused": "not encodable",
    "tool_calls_unwritten": "with tool calls that the template does not write",
    "identical_encoded": "identical once encoded",
}
"""What is wrong with rows, for the last line."""

LINES = 3
"""How many lines a text is given before its middle is left out."""

SHOWN = 6
"""How many turns, answers or parts of an answer are shown before those in the middle are left out."""


def show(report: Report, console: Console) -> None:
    """Print the report: what each file holds, one row of it, what was found, and in the last line the verdict."""
    for file in report.files:
        _show_file(file, console)
    for (name, other), finding in report.shared.items():
        table = _table()
        _line(table, "yellow", finding.count, "prompts that both files hold", finding.examples)
        console.print(_text(f"{Path(name).name} and {Path(other).name}", style="bold"), table, sep="\n")
    console.print(_verdict(report))


def _verdict(report: Report) -> Text:
    """The last line."""
    count = report.to_look_at
    look = f"{count:,} thing{'' if count == 1 else 's'} to look at" if count else ""
    if report.errors:
        faults = ", ".join(f"{times:,} {FAULTS[name]}" for name, times in report.errors.items())
        return _text("; ".join(filter(None, (faults, look))), style="red")
    return _text(look, style="yellow") if look else _text("clean", style="green")


def _show_file(file: FileReport, console: Console) -> None:
    load = file.load
    console.print(_text(Path(load.source).name, style="bold"), _text(f"read as {load.adapter}"))
    console.print(_text(f"{TITLES[file.kind]}. Columns: {file.fields}"))
    console.print(_text(f"{load.rows:,} rows, {load.kept:,} kept, {load.dropped.total():,} dropped"))
    for line in _notes(file):
        console.print(_text(line))
    if file.sample is not None:
        _show_sample(file.sample, console)
        console.print()
    _show_findings(file, console)
    if file.length is not None:
        console.print(_text(_length_line(file.length)))
    console.print()


def _notes(file: FileReport) -> Iterable[str]:
    """What is worth knowing and no fault, a line each."""
    if file.labels is not None:
        yield f"{file.labels['good']:,} answers labelled good, {file.labels['bad']:,} bad"
    if file.user_turns:
        yield f"{file.user_turns:,} prompts of bare text became user turns"
    if file.load.other_splits:
        yield f"other splits there, which are not read: {', '.join(file.load.other_splits)}"
    yield from filter(None, (file.load.warning, file.load.remark))


def _show_findings(file: FileReport, console: Console) -> None:
    """A line for each thing found, the grave ones first, and the names of what was looked for in vain."""
    load, table = file.load, _table()
    for counter, word, colour in (
        (load.dropped, "dropped", "red"),
        (load.repaired, "repaired", "yellow"),
        (load.noted, "noted", "yellow"),
    ):
        for reason, count in counter.most_common():
            _line(table, colour, count, f"{word}: {reason}", load.examples[reason])
    for name in sorted(file.findings, key=list(WORDS).index):
        if (finding := file.findings[name]).count:
            colour = "red" if name in ERRORS else "dim" if name in REMARKS else "yellow"
            _line(table, colour, finding.count, WORDS[name], finding.examples)
    if table.row_count:
        console.print(table)
    absent = [name.replace("_", " ") for name in WORDS if name in file.findings and not file.findings[name].count]
    if absent:
        console.print(_text(f"none of: {', '.join(absent)}", style="dim"))


def _table() -> Table:
    table = Table(box=None, show_header=False, padding=(0, 1), pad_edge=False)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(ratio=3)
    table.add_column(ratio=2, overflow="fold")
    return table


def _line(table: Table, colour: str, count: int, what: str, places: list[str]) -> None:
    table.add_row(_text(f"{count:,}"), _text(what), _text(_where(places)), style=colour if count else "dim")


def _where(places: list[str]) -> str:
    """Places without folders, and each file named once: "rows.jsonl:3, :7"."""
    shown: list[str] = []
    last = ""
    for place in places:
        parts = re.split("( = | against )", place)
        short = "".join(re.sub(r"^[^(]*/", "", part) for part in parts)  # in brackets stands no path, but a reason
        name = short.partition(":")[0]
        shown.append(short.removeprefix(name) if name == last else short)
        last = name
    return ", ".join(shown)


def _length_line(bias: LengthBias) -> str:
    share = f"The chosen answer is the longer one in {bias.share:.1%} of {bias.pairs:,} pairs"
    return (
        f"{share} (95 % interval {bias.low:.1%} to {bias.high:.1%}; correlation with length {bias.correlation:+.2f})."
    )


# ---- one row ---------------------------------------------------------------------------------------------------------


def _show_sample(sample: Sample, console: Console) -> None:
    """A row as text, and as its token ids read with what the loss falls on marked."""
    answers = _answers(sample.row)
    room = LINES * (console.width - 2 - 2 - max(map(cell_len, [*answers, "assistant", "rejected"])))
    turns = [(turn["role"], [Part(_whole(turn), False)]) for turn in sample.row["prompt"]]
    said = [(name, [Part(text, False)]) for name, text in answers.items()]
    later = [(turn["role"], [Part(_whole(turn), False)]) for turn in sample.row.get("later_turns", [])]
    others = [(name, [Part(str(value), False)]) for name, value in _others(sample.row).items()]
    console.print(_text(f"One row as it is trained on ({_where([sample.place])}):"))
    lines = [*_ends(turns, "turns"), *_ends(said, "answers"), *_ends(later, "turns"), *others]
    console.print(_block(lines, room, console))
    if sample.encoded is None:
        return
    mark = "in green" if _has_colours(console) else "between ⟦ and ⟧"
    console.print(_text(f"The same as tokens; the loss falls on what is {mark}:"))
    encoded = zip(answers, sample.encoded.responses, strict=True)
    lines = [("prompt", [Part(sample.encoded.prompt, False)]), *_ends(list(encoded), "answers")]
    console.print(_block(lines, room, console))


def _whole(turn: dict[str, Any]) -> str:
    """What a turn says, and what it brings for the chat template."""
    role, *said = plain_turn(turn).values()
    return " ".join(filter(None, said))


def _answers(row: dict[str, Any]) -> dict[str, str]:
    """The answers of a row with what they are called: chosen, rejected; response; or by rank and score."""
    if "responses" not in row:
        return {name: row[name] for name in ("chosen", "rejected", "response") if name in row}
    scores = row.get("scores") or [None] * len(row["responses"])
    ranked = enumerate(zip(row["responses"], scores, strict=True), 1)
    return {f"{rank}" if score is None else f"{rank} ({score:g})": text for rank, (text, score) in ranked}


def _others(row: dict[str, Any]) -> dict[str, Any]:
    """The columns beside prompt and answers, such as a label or a margin."""
    shown = {"prompt", "chosen", "rejected", "response", "responses", "scores", "later_turns"}
    return {name: value for name, value in row.items() if name not in shown}


def _ends(items: list[Any], what: str) -> list[Any]:
    """The items, or the first and last of them with a word on how many lie between."""
    if len(items) <= SHOWN:
        return items
    half = SHOWN // 2
    return [*items[:half], ("…", [Part(f"({len(items) - SHOWN:,} more {what})", False)]), *items[-half:]]


def _block(lines: Sequence[tuple[str, list[Part]]], room: int, console: Console) -> Table:
    """Names and texts side by side, each text in at most so many cells."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column(no_wrap=True, style="dim")
    table.add_column(overflow="fold")
    for name, parts in lines:
        table.add_row(_text(f"  {name}"), _marked(parts, room, console))
    return table


def _marked(parts: list[Part], room: int, console: Console) -> Text:
    """Parts one after another, what is trained on in colour, or in brackets where there are no colours."""
    shown, text = _few(parts), Text()
    for part in shown:
        said = shortened(part.text, max(48, room // len(shown)))
        if not part.trained:
            text.append(said)
        elif _has_colours(console):
            text.append(said, style="bold green")
        else:
            text.append(f"⟦{said}⟧")
    return text


def _few(parts: list[Part]) -> list[Part]:
    """The parts, or the first and last of them."""
    if len(parts) <= SHOWN:
        return parts
    half = SHOWN // 2
    return [*parts[:half], Part(f" … ({len(parts) - SHOWN:,} more parts) … ", False), *parts[-half:]]


def _has_colours(console: Console) -> bool:
    return console.is_terminal and not console.is_dumb_terminal


def shortened(text: str, cells: int) -> str:
    """A text as one line of at most so many cells: line ends as ↵; of a longer one both ends, and its length."""
    start, end = one_line(text[:cells]), one_line(text[-cells:])
    if len(text) <= cells and cell_len(start) <= cells:
        return start
    gap = f" … ({len(text):,} characters in all) … "
    room = cells - cell_len(gap)
    tail = max(1, room // 3)
    while cell_len(start) > max(1, room - tail):
        start = start[:-1]
    while cell_len(end) > tail:
        end = end[1:]
    return start + gap + end


def _text(text: str, style: str = "") -> Text:
    """What files and rows say, as a terminal may show it."""
    return Text(visible(text), style)
