"""Where the prompt of a pair ends that no column holds: what two texts begin with in common.

Transcripts and texts in the template of a model are cut where the answer begins, others before the first word that
differs, as TRL does (https://huggingface.co/docs/trl/dataset_formats, "implicit prompt"). Answers that begin alike by
chance have a common beginning, too. So this reading is for files that keep no prompt anywhere, see `may_be_asked`.

Scripts without spaces are cut at the last end of a sentence that both sides have, or else before the first character
that differs, which is counted, as it may be within a word. Of 1,593 Chinese prompts glued to both their answers
(rm-static in Chinese, from dikw/hh_rlhf_cn, and LLaMA-Factory's dpo_zh_demo) this finds the end of 1,517, at any pause
of 1,421, before the first character that differs of 1,409; 17 cuts divide a word (by jieba 0.42.1), else 13 and 35.
Without any punctuation it is 1,410 with 40 divided words; refusing those rows would lose them all.
"""

import re
import unicodedata
from collections.abc import Sequence
from itertools import takewhile

from .columns import CONVERSATIONS, HISTORY, QUESTIONS, file_of
from .fields import Drop, Row
from .file import File

_ANSWER_BEGINS = re.compile(
    r"""(?ix)
      <\|(?:im_start|start_header_id)\|>\s*assistant\s*(?:<\|end_header_id\|>)?\s*
    | <\|assistant\|>\s* | <start_of_turn>model\s* | \[/INST\]\s*
    | (?:\A|\n)[ \t]*\#{2,}\s*(?:response|answer|assistant)\s*:?\s*
    | (?:\A|\n)[ \t]*(?:assistant|answer|gpt|bot|助手|助理|机器人|機器人|回答|答)[ \t]*[:：][ \t]*
    """
)
"""What texts write before an answer: ChatML, Llama 3, Zephyr, Gemma, Llama 2, Alpaca, and transcripts."""
_NO_SPACES = re.compile("[\u0e00-\u0edf\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
"""Letters of scripts that write no space between words, where a word begins at any of them."""
_SENTENCE_ENDS = re.compile(r"[。！？!?\n]+[”」』）\")]*")
_WITHIN = ("L", "N", "M", "Cf", "Sk")
_JOINING = "'’-_"


def may_be_asked(row: Row, answers: tuple[str, str]) -> str | None:
    """A column of the file that may hold what the answers are to, though this row may have nothing there."""
    file = file_of(row)
    known = (name for name in (*QUESTIONS, *CONVERSATIONS, *HISTORY) if name not in answers and file.fills(name))
    return next(known, None) or file.wordy(answers)


def shared_start(chosen: str, rejected: str) -> int:
    """Where two texts part: behind the last mark of an answer that both have, else before a word, and its space.

    Raises:
        Drop: they begin differently.
    """
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(chosen, rejected)))  # noqa: B905
    marks = [mark.end() for mark in _ANSWER_BEGINS.finditer(chosen[:same])]
    if marks and chosen[: marks[-1]].strip():
        cut = marks[-1]
        return cut - 1 if chosen[cut - 1] == " " else cut
    cut = same
    if any(_in_word(side, same) for side in (chosen, rejected)):
        while cut and _is_letter(chosen[cut - 1]):
            cut -= 1
    if 0 < cut == same and _NO_SPACES.match(chosen[cut - 1]):
        cut = max((end.end() for end in _SENTENCE_ENDS.finditer(chosen[:cut])), default=cut)
    cut = cut - 1 if cut and chosen[cut - 1] == " " else cut
    if not chosen[:cut].strip():
        raise Drop("no prompt: no column is one, and the answers begin differently")
    return cut


WITHIN = (
    "implicit prompt cut before the first character that differs, be it within a word: end prompts on a mark, or give "
    "them a column, by `columns` under any name"
)


def may_divide(sides: Sequence[str], cut: int) -> bool:
    """Whether a cut may be within a word of a script that writes no spaces."""
    around = (side[position : position + 1] for side in sides for position in (cut - 1, cut))
    return cut > 0 and all(_NO_SPACES.match(character) for character in around)


def begin_alike(file: File, pairs: Sequence[tuple[str, str]]) -> bool:
    """Whether the pairs of a file begin alike, but for one in ten: its answers have their prompt before them, then."""
    if "begin alike" not in file.notes:
        file.notes["begin alike"] = 10 * sum(not _starts_alike(*pair) for pair in pairs) <= len(pairs)
    return bool(file.notes["begin alike"])


def _starts_alike(chosen: str, rejected: str) -> bool:
    try:
        return shared_start(chosen, rejected) > 0
    except Drop:
        return False


def _in_word(side: str, position: int) -> bool:
    """Whether a cut here would leave nothing, or half a word of a script that writes spaces."""
    return position == len(side) or (position > 0 and _is_letter(side[position - 1]) and _is_letter(side[position]))


def _is_letter(character: str) -> bool:
    """Whether a word goes on over this character: letters, digits, what combines with them, and what joins words."""
    if character.isascii():
        return character.isalnum() or character in _JOINING
    category = unicodedata.category(character)
    return (category.startswith(_WITHIN) or character in _JOINING) and not _NO_SPACES.match(character)
