r"""Formats that write a conversation as one text with speaker tags: HH-RLHF and rm-static, English and Chinese.

Where the prompt of such a pair ends and its answers begin is decided here, in `read_hh` and `pair_of`.
"""

import re
from collections.abc import Sequence

from ..records import Candidates, Turn
from .base import register
from .fields import ROLES, Drop, Row, is_text, merge_speakers, response_of, text

# A search for a pattern that begins with a fixed character is seven times faster; the turn before it is stripped.
HH_TAG = re.compile(r"\n\r?\n(Human|Assistant):")
HH_START = re.compile(r"\s*(Human|Assistant):")
WORDS = "Human|Assistant|User|人类|人類|用户|用戶|使用者|助手|助理|机器人|機器人|问|問|答"
SPEAKERS = {**ROLES, "答": "assistant"}
# From the published form to what translation leaves of it: a tag after a blank line, on its own line, after any space.
# A looser form is tried only where a stricter one does not explain the whole prompt, as answers may quote tags.
TAGS = tuple(
    re.compile(rf"{before}({WORDS})[ \t\u3000]*[:：]")
    for before in (r"(?:\A\s*|\n[ \t\u3000]*\n\s*)", r"(?:\A\s*|\n\s*)", r"(?:\A\s*|\s+)")
)
HAN = re.compile("[\u4e00-\u9fff]")


def split_turns(transcript: str, tag: re.Pattern[str]) -> list[Turn]:
    """The turns of a transcript, less the space around them."""
    before, *parts = tag.split(transcript)
    if before.strip() or not parts:
        raise Drop("text does not start with a speaker tag")
    return [Turn(SPEAKERS[who.lower()], said.strip()) for who, said in zip(parts[::2], parts[1::2], strict=True)]


def _is_hh(row: Row) -> bool:
    if "prompt" in row or not is_text(row, "chosen", "rejected"):
        return False
    return HH_START.match(row["chosen"]) is not None and HH_START.match(row["rejected"]) is not None


@register(
    "hh-rlhf",
    kind="pair",
    source="https://huggingface.co/datasets/Anthropic/hh-rlhf",
    fields=r'chosen, rejected: "\n\nHuman: ...\n\nAssistant: ..." transcripts',
    recognises=_is_hh,
)
def read_hh(row: Row) -> Candidates:
    """The longest common prefix of whole turns is the prompt; exactly one assistant turn must remain on each side.

    Anthropic's rows have no other mark of where the answer starts: cutting at the first differing character puts the
    answers' common beginning into the prompt, and cutting both at the last tag corrupts rows that differ earlier.
    """
    chosen, repairs = _conversation(text(row, "chosen"))
    rejected, more = _conversation(text(row, "rejected"))
    return pair_of([chosen, rejected], repairs or more)


def _conversation(transcript: str) -> tuple[list[Turn], tuple[str, ...]]:
    return merge_speakers(split_turns("\n\n" + transcript.lstrip(), HH_TAG))


def pair_of(sides: list[list[Turn]], repairs: tuple[str, ...] = ()) -> Candidates:
    """A pair from two whole conversations, the chosen one first."""
    chosen, rejected = sides
    if any(not side or side[-1].role != "assistant" for side in (chosen, rejected)):
        raise Drop("conversation ends on a user turn")
    shared = common_turns(chosen, rejected)
    if len(chosen) == len(rejected) == shared:
        raise Drop("identical answers")
    if not len(chosen) == len(rejected) == shared + 1:
        raise Drop("context mismatch")
    return Candidates(tuple(chosen[:shared]), (response_of(chosen[-1]), response_of(rejected[-1])), repairs=repairs)


def common_turns(chosen: list[Turn], rejected: list[Turn]) -> int:
    """How many turns two conversations share from the start."""
    shared = 0
    for one, other in zip(chosen, rejected):  # noqa: B905 (the shorter one ends it)
        if one != other:
            break
        shared += 1
    return shared


def tagged_prompt(transcript: str) -> tuple[tuple[Turn, ...], tuple[str, ...]] | None:
    """The turns of a prompt that carries speaker tags, and its repairs; None when it carries none."""
    transcript = transcript.replace("\r\n", "\n")
    if not TAGS[0].match(transcript):
        return None
    for tag in TAGS:
        *turns, last = split_turns(transcript, tag)
        if turns and last == Turn("assistant", ""):
            conversation, repairs = merge_speakers(turns)
            return tuple(conversation), repairs
    conversation, repairs = merge_speakers(split_turns(transcript, TAGS[0]))
    return tuple(conversation), (*repairs, "final assistant tag was missing")


def transcript_turns(value: str) -> list[Turn]:
    """The turns of a text that is a transcript from its first character on, the user's first; else none."""
    if not TAGS[0].match(value):
        return []
    turns = split_turns(value, TAGS[0])
    return turns if turns[0].role == "user" else []


def untagged(answer: str, prompt: Sequence[Turn] = ()) -> tuple[str, tuple[str, ...]]:
    """An answer less the transcript of its prompt, or the assistant tag, that some copies repeat before it."""
    whole = transcript_turns(answer)
    if whole and whole[:-1] == list(prompt) and whole[-1].role == "assistant":
        return whole[-1].content, ("prompt removed from the beginning of an answer",)
    tag = TAGS[0].match(answer)
    if tag and SPEAKERS[tag[1].lower()] == "assistant":
        return answer[tag.end() :].strip(), ("assistant tag removed from an answer",)
    return answer, ()


def _is_tagged(row: Row) -> bool:
    return is_text(row, "prompt", "chosen", "rejected") and TAGS[0].match(row["prompt"]) is not None


def _is_tagged_chinese(row: Row) -> bool:
    return _is_tagged(row) and HAN.search(row["prompt"]) is not None


def read_rm_static(row: Row) -> Candidates:
    """Prompt with tags, answers without; the column `response` repeats the chosen answer and is not needed."""
    tagged = tagged_prompt(text(row, "prompt"))
    if tagged is None:
        raise Drop("prompt does not start with a speaker tag")
    prompt, repairs = tagged
    chosen, chosen_repairs = untagged(text(row, "chosen").strip(), prompt)
    rejected, rejected_repairs = untagged(text(row, "rejected").strip(), prompt)
    return Candidates(prompt, (chosen, rejected), repairs=tuple({*repairs, *chosen_repairs, *rejected_repairs}))


# One reading serves both names: the strictest form that explains the prompt is the English one where it applies.
register(
    "rm-static-zh",
    kind="pair",
    source="https://huggingface.co/datasets/zwh9029/rm-static-m2m100-zh-jianti",
    fields="prompt, chosen, rejected: as rm-static, in Chinese (人类：... 助手：)",
    recognises=_is_tagged_chinese,
    finish_columns=True,
)(read_rm_static)
register(
    "rm-static",
    kind="pair",
    source="https://huggingface.co/datasets/Dahoas/rm-static",
    fields=r'prompt: "\n\nHuman: ...\n\nAssistant:", chosen, rejected: answers',
    recognises=_is_tagged,
    finish_columns=True,
)(read_rm_static)
