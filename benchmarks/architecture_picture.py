"""Draws the rooms of the package, each above what it imports from: docs/images/architecture.svg.

python -m benchmarks.architecture_picture        # tests/test_architecture.py holds the picture against the imports
"""

from __future__ import annotations

from pathlib import Path
from xml.sax.saxutils import escape

FLOORS = (
    (("cli", "the command line"),),
    (("rounds", "and once more?"), ("migrate", "from where?")),
    (("compare", "which is better?"),),
    (
        ("training", "how is it trained?"),
        ("labelling", "what do people say?"),
        ("testbed", "a world with a known reward"),
    ),
    (("candidates", "kept and selected?"),),
    (("scoring", "who scores?"),),
    (("generation", "how is it generated?"),),
    (("models", "loaded and run?"),),
    (
        ("objectives", "what is learnt?"),
        ("data", "row -> tokens?"),
        ("doctor", "what is wrong?"),
        ("tasks", "in which order?"),
    ),
    (("batch", "what crosses the rooms"), ("grades", "what people may say"), ("utils", "processes, files, names")),
)
"""From the roof down: a room imports from the floors below it, and never from one above."""
WIDTH, HEIGHT, GAP, MARGIN = 860, 46, 8, 4
STYLE = """
text { font: 13px system-ui, sans-serif; fill: #1f2933; }
.name { font-weight: 600; }
.room { fill: #eef5f4; stroke: #2f7f79; }
@media (prefers-color-scheme: dark) {
  text { fill: #e4e7eb; }
  .room { fill: #1d2b2a; stroke: #5fb3ab; }
}
"""


def picture() -> str:
    """The picture as SVG; the same text each time."""
    height = len(FLOORS) * (HEIGHT + GAP) - GAP + 2 * MARGIN
    rooms = "\n".join(room for floor, names in enumerate(FLOORS) for room in _floor(floor, names))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH + 2 * MARGIN} {height}" role="img">\n'
        f"<title>The rooms of prefopt: each imports from the floors below it</title>\n<style>{STYLE}</style>\n"
        f"{rooms}\n</svg>\n"
    )


def _floor(floor: int, names: tuple[tuple[str, str], ...]) -> list[str]:
    width = (WIDTH - GAP * (len(names) - 1)) / len(names)
    y = MARGIN + floor * (HEIGHT + GAP)
    return [_room(MARGIN + place * (width + GAP), y, width, *name) for place, name in enumerate(names)]


def _room(x: float, y: float, width: float, name: str, question: str) -> str:
    middle = x + width / 2
    return (
        f'<rect class="room" x="{x:g}" y="{y:g}" width="{width:g}" height="{HEIGHT}" rx="6"/>'
        f'<text class="name" x="{middle:g}" y="{y + 19:g}" text-anchor="middle">{escape(name)}</text>'
        f'<text x="{middle:g}" y="{y + 36:g}" text-anchor="middle">{escape(question)}</text>'
    )


if __name__ == "__main__":
    place = Path(__file__).parents[1] / "docs" / "images" / "architecture.svg"
    place.parent.mkdir(exist_ok=True)
    place.write_text(picture(), "utf-8")
