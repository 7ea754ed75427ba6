"""Edits of source text by the places that `ast` gives. All else of the text stays, comments and layout included."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, field

Span = tuple[int, int]
LEFT_OVER = ((re.compile(rb"^[ \t]+\n", re.M), b""), (re.compile(rb",[ \t]+\)"), b")"))
"""What a line, or a call, looks like whose last arguments went; with what stands for it."""


@dataclass
class Source:
    """A Python file, and the edits that are wanted of it.

    Raises:
        SyntaxError: it is none.
    """

    text: str
    edits: list[tuple[Span, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.tree = ast.parse(self.text)
        self.bytes = self.text.encode("utf-8")
        lines = self.bytes.splitlines(keepends=True)
        self.starts = [sum(map(len, lines[:number])) for number in range(len(lines) + 1)]

    def span(self, node: ast.AST) -> Span:
        """Where a node begins and ends, in bytes."""
        place: ast.expr = node  # type: ignore[assignment]
        begin = self.starts[place.lineno - 1] + place.col_offset
        return begin, self.starts[(place.end_lineno or place.lineno) - 1] + (place.end_col_offset or 0)

    def said(self, node: ast.AST) -> str:
        """The text of a node."""
        begin, end = self.span(node)
        return self.bytes[begin:end].decode("utf-8")

    def replace(self, node: ast.AST, text: str) -> None:
        self.edits.append((self.span(node), text))

    def rename(self, keyword: ast.keyword, name: str) -> None:
        """Another name for an argument, whose value stays."""
        begin = self.span(keyword)[0]
        self.edits.append(((begin, begin + len(str(keyword.arg).encode("utf-8"))), name))

    def remove_argument(self, call: ast.Call, argument: ast.AST) -> None:
        """Take an argument out of a call, with the comma that goes with it and, if it has one to itself, its line."""
        begin, end = self.span(argument)
        after = end
        while self.bytes[after : after + 1] in (b" ", b"\t", b"\n", b","):
            if self.bytes[after : after + 1] == b",":
                after += 1
                while self.bytes[after : after + 1] in (b" ", b"\t"):
                    after += 1
                break
            after += 1
        else:
            after = end
        line = self.bytes.rfind(b"\n", 0, begin) + 1
        if not self.bytes[line:begin].strip() and self.bytes[after : after + 1] == b"\n":
            begin, after = line, after + 1
        elif after == end:  # the last one: the comma before it goes
            comma = self.bytes.rfind(b",", self.span(call.func)[1], begin)
            begin = comma if comma >= 0 and not self.bytes[comma + 1 : begin].strip() else begin
        self.edits.append(((begin, after), ""))

    def add_arguments(self, call: ast.Call, added: dict[str, str]) -> None:
        """Give a call more arguments by name, laid out as those that it has: after those without a name, which stay."""
        given = [f"{name}={value}" for name, value in added.items()]
        if call.args:
            begin, end = self.span(call.args[-1])
            between = f",\n{indent}" if (indent := self._indent(begin)) and call.end_lineno != call.lineno else ", "
            return self.insert(end, "".join(between + each for each in given))
        if not call.keywords:
            return self.insert(self.span(call)[1] - 1, ", ".join(given))
        begin = self.span(call.keywords[0])[0]
        if indent := self._indent(begin):
            return self.insert(begin - len(indent), "".join(f"{indent}{each},\n" for each in given))
        return self.insert(begin, "".join(f"{each}, " for each in given))

    def _indent(self, at: int) -> str:
        """The space before a place, where that begins a line; else ""."""
        before = self.bytes[self.bytes.rfind(b"\n", 0, at) + 1 : at]
        return "" if before.strip() else before.decode("utf-8")

    def insert(self, at: int, text: str) -> None:
        self.edits.append(((at, at), text))

    def insert_before(self, statement: ast.stmt, lines: list[str]) -> None:
        """Lines of code before a statement, as deep as it."""
        begin = self.span(statement)[0]
        line = self.starts[statement.lineno - 1]
        if self.bytes[line:begin].strip():  # as in `if this: that`
            return self.insert(begin, "".join(f"{each}; " for each in lines))
        indent = self.bytes[line:begin].decode("utf-8")
        self.insert(line, "".join(f"{indent}{each}\n" for each in lines))

    def edited(self) -> str:
        """The text with its edits; of two at one place the later asked for comes last."""
        data, self.edits = self.bytes, _merged(self.edits)
        order = sorted(range(len(self.edits)), key=lambda number: (self.edits[number][0], number))
        for number in reversed(order):
            (begin, end), text = self.edits[number]
            if any(outer < begin and end < last for (outer, last), _ in self.edits):
                continue  # of what is taken out as a whole
            data = data[:begin] + text.encode("utf-8") + data[end:]
        for pattern, tidy in LEFT_OVER:
            data = data if pattern.search(self.bytes) else pattern.sub(tidy, data)
        return data.decode("utf-8")


def _merged(edits: list[tuple[Span, str]]) -> list[tuple[Span, str]]:
    """The edits, in which what is taken out twice is taken out once."""
    merged: list[Span] = []
    for begin, end in sorted(span for span, text in edits if not text):
        if merged and begin <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((begin, end))
    return [*((span, "") for span in merged), *(edit for edit in edits if edit[1])]
