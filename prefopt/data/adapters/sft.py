"""Formats with one good response, or with a prompt only: instructions, conversations, Zhihu-KOL, HC3, plain text.

Each `@register(...)` is one format: how a row of it is recognised, and the function below, which says what it means.
"""

from dataclasses import replace

from ..records import Candidates, Response, Turn, kind_of
from .base import REGISTRY, register
from .cells import decoded
from .columns import CONVERSATIONS, LABELS, QUESTIONS, Columns, peek
from .fields import Drop, Row, chat_turns, first_key, is_chat, is_text, items, merge_speakers, response_of, text
from .labels import FLAG_LABELS, label_of, labels_of
from .questions import Prompt, asked, prompt_of, whole
from .transcripts import transcript_turns
from .turn_keys import counted_turns

ANSWERS = ("response", "completion", "answer", "output")


def conversation(said: list[Turn]) -> Candidates:
    """Everything before the first answer is the prompt; from there on all answers are trained on.

    An answer is a turn of the assistant's that is not marked as one that does not count.
    """
    merged, repairs = merge_speakers(said)
    if not any(turn.role == "assistant" for turn in merged):
        raise Drop("conversation has no assistant turn")
    before, response, more = answered(merged)
    return Candidates(tuple(before), (response,), repairs=repairs + more)


def answered(turns: list[Turn]) -> tuple[list[Turn], Response, tuple[str, ...]]:
    """What stands before the first answer, and the response that turns from there on make.

    That is the answer's text, or the turns when there are several answers.
    """
    answers = [number for number, turn in enumerate(turns) if turn.role == "assistant" and turn.counts]
    if not answers:
        uncounted = any(turn.role == "assistant" for turn in turns)
        raise Drop("no answer is trained on" if uncounted else "response does not start with an assistant turn")
    if not all(turns[number].content.strip() or turns[number].tool_calls for number in answers):
        raise Drop("empty response")
    first, last = answers[0], answers[-1]
    before = [turn if turn.counts else _unmarked(turn) for turn in turns[:first]]
    repairs = ("turns after the last answer removed",) if last + 1 < len(turns) else ()
    return before, response_of(turns[first]) if first == last else tuple(turns[first : last + 1]), repairs


def _unmarked(turn: Turn) -> Turn:
    return replace(turn, more=tuple(extra for extra in turn.more if extra[0] != "loss"))


@register(
    "hc3-chinese",
    kind="sft",
    fields="question, human_answers: [texts], chatgpt_answers: [texts]",
    recognises=lambda row: "question" in row and ("chatgpt_answers" in row or "human_answers" in row),
    source="https://huggingface.co/datasets/Hello-SimpleAI/HC3-Chinese",
)
def read_hc3(row: Row) -> Candidates:
    """The first of ChatGPT's answers, or else of the people's; the others are not used. A text is one answer."""
    answer = next((each for name in ("chatgpt_answers", "human_answers") for each in _texts(row, name)), "")
    return Candidates((Turn("user", text(row, "question").strip()),), (answer,))


def _texts(row: Row, name: str) -> list[str]:
    """The texts of a column that say something: a list of them, or a single one."""
    value = decoded(row.get(name))
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list | tuple | None):
        raise Drop(f"field {name!r}: is {kind_of(value)}, expected texts")
    return [each for each in value or () if isinstance(each, str) and each.strip()]


@register(
    "zhihu-kol",
    kind="sft",
    fields="INSTRUCTION, RESPONSE",
    recognises=lambda row: is_text(row, "INSTRUCTION", "RESPONSE"),
    source="https://huggingface.co/datasets/wangrui6/Zhihu-KOL",
)
def read_zhihu(row: Row) -> Candidates:
    return Candidates((Turn("user", text(row, "INSTRUCTION").strip()),), (text(row, "RESPONSE"),))


@register(
    "alpaca",
    kind="sft",
    fields="instruction, input, output (or response, completion, answer): texts; optional system, history",
    recognises=lambda row: is_text(row, "instruction") and _answer_name(row) is not None,
    source="https://github.com/tatsu-lab/stanford_alpaca",
)
def read_alpaca(row: Row) -> Candidates:
    prompt = asked(row, "instruction")
    return Candidates(prompt.turns, (prompt.answer(text(row, _answer_name(row) or "output")),), repairs=prompt.repairs)


def _answer_name(row: Row) -> str | None:
    """The column of the one answer, text or turns; with an instruction, LLaMA-Factory's `output` comes first."""
    names = ("output", *ANSWERS) if "instruction" in row else ANSWERS
    name = first_key(row, names)
    return name if name is not None and (isinstance(row[name], str) or is_chat(row[name])) else None


def _is_conversation(row: Row) -> bool:
    name = first_key(row, CONVERSATIONS)
    return name is not None and is_chat(row[name]) and _ends_on_answer(row, name)


def _ends_on_answer(row: Row, name: str) -> bool:
    """Whether the assistant has the last word in a conversation; else the whole of it is a prompt."""
    last = items({name: decoded(row[name])}, name)[-1]
    try:
        return chat_turns({name: [last]}, name)[-1].role == "assistant"
    except Drop:
        return True


@register(
    "conversations",
    kind="sft",
    source="https://huggingface.co/docs/trl/dataset_formats",
    fields="messages: [{role, content}], conversations: [{from, value}] or conversation: [{human, assistant}]",
    recognises=_is_conversation,
)
def read_conversation(row: Row) -> Candidates:
    name = first_key(row, CONVERSATIONS)
    if name is None:
        raise Drop(f"none of the fields {', '.join(CONVERSATIONS)}")
    return conversation(counted_turns(row, name))


def _is_answered(row: Row) -> bool:
    return "prompt" in row and _answer_name(row) is not None


@register(
    "prompt-response",
    kind="sft",
    fields="prompt, response (or completion, ...): texts or [{role, content}]; a text prompt stays verbatim",
    recognises=_is_answered,
    finish_columns=True,
    source="https://huggingface.co/docs/trl/dataset_formats",
)
def read_prompt_response(row: Row) -> Candidates:
    """TRL's prompt and completion, standard or conversational; a prompt with speaker tags is read as a conversation."""
    name = first_key(row, ANSWERS) or ANSWERS[0]
    prompt = asked(row, "prompt") if "prompt" in row else Prompt((Turn("text", text(row, "prompt")),), verbatim=True)
    as_turns = name in row and is_chat(whole(row, name))
    if not as_turns and (not prompt.verbatim or prompt.turns[0].role == "text"):
        answer = text(row, name)
        said = answer if prompt.verbatim else prompt.answer(answer)
        return Candidates(prompt.turns, (said,), repairs=prompt.repairs)
    tail = counted_turns(row, name) if as_turns else [Turn("assistant", text(row, name))]
    before, response, repairs = answered(tail + (counted_turns(row, "later_turns") if row.get("later_turns") else []))
    if before and before[0].role != "assistant":
        raise Drop("response does not start with an assistant turn")
    turns = (Turn("user", t.content.strip()) if t.role == "text" and t.content else t for t in prompt.turns)
    return Candidates((*turns, *before), (response,), repairs=prompt.repairs + repairs)


@register(
    "query-response",
    kind="sft",
    fields="query, question or input (by name also prompt), response (or answer, output): texts; a user's turn",
    recognises=lambda row: first_key(row, QUESTIONS) is not None and _answer_name(row) is not None,
    finish_columns=True,
)
def read_query_response(row: Row) -> Candidates:
    prompt = prompt_of(row, ("query", "question", *QUESTIONS))
    if prompt is None:
        raise Drop(f"none of the fields {', '.join(QUESTIONS)}")
    turns = tuple(Turn("user", t.content.strip()) if t.role == "text" else t for t in prompt.turns)
    answer = prompt.answer(text(row, first_key(row, ANSWERS) or ANSWERS[0]))
    return Candidates(turns, (answer,), repairs=prompt.repairs)


def _is_labelled(row: Row) -> bool:
    if not any(labels_of(row)):
        return False
    return any(REGISTRY[name].knows(row) for name in DEMONSTRATIONS)


DEMONSTRATIONS = ("alpaca", "conversations", "prompt-response", "query-response")
"""Formats of one answer, of which a label may say whether it is a good one."""


@register(
    "labelled",
    kind="unpaired",
    fields=(
        f"one answer in any of the formats {', '.join(DEMONSTRATIONS)}, and {', '.join(LABELS)}; also, where they hold "
        f"true or false, {', '.join(name for name in FLAG_LABELS if name not in LABELS)}"
    ),
    recognises=_is_labelled,
    finish_columns=True,
    source="https://huggingface.co/docs/trl/dataset_formats#unpaired-preference",
)
def read_labelled(row: Row) -> Candidates:
    """An answer that a label calls good or bad: what KTO and BCO learn from."""
    label = label_of(row)
    plain = row.plain() if isinstance(row, Columns) else row
    form = next((REGISTRY[form] for form in DEMONSTRATIONS if REGISTRY[form].knows(plain)), None)
    if form is None:
        raise Drop("no answer in a known form beside the label")
    candidates = form.read(row)
    if form.name == "conversations":
        candidates = _last_alone(candidates)
    return replace(candidates, label=label)


def _last_alone(candidates: Candidates) -> Candidates:
    """A conversation of which only what answers the user's last turn was judged, and not what was answered before."""
    (response,) = candidates.responses
    if isinstance(response, str):
        return candidates
    start = max((number for number, turn in enumerate(response, 1) if turn.role == "user"), default=0)
    last = response[start:]
    said = response_of(last[0]) if len(last) == 1 else last
    return replace(candidates, prompt=(*candidates.prompt, *response[:start]), responses=(said,))


@register(
    "text",
    kind="sft",
    source="https://huggingface.co/docs/trl/dataset_formats",
    fields="text: trained on from its first token",
    recognises=lambda row: is_text(row, "text"),
)
def read_text(row: Row) -> Candidates:
    """TRL's language modeling format: no prompt, no speaker, the whole text verbatim."""
    return Candidates((Turn("text", ""),), (text(row, "text"),))


@register(
    "prompts",
    kind="prompt",
    source="https://huggingface.co/docs/trl/dataset_formats",
    fields="prompt: text (verbatim, unless it has speaker tags) or [{role, content}] up to a user's turn",
    recognises=lambda row: isinstance(row.get("prompt"), str | list),
)
def read_prompt(row: Row) -> Candidates:
    return _prompt_alone(asked(row, "prompt") if "prompt" in row else None, "prompt")


def _prompt_alone(prompt: Prompt | None, name: str) -> Candidates:
    if prompt is None:
        raise Drop(f"field {name!r}: missing")
    turns, repairs = merge_speakers(list(prompt.turns))
    return Candidates(tuple(turns), repairs=prompt.repairs + repairs)


@register(
    "queries",
    kind="prompt",
    fields="query, question, instruction or input (by name also prompt): text, a user's turn",
    recognises=lambda row: any(isinstance(row.get(name), str) for name in QUESTIONS),
)
def read_query_prompt(row: Row) -> Candidates:
    prompt = asked(row, "instruction") if "instruction" in row else prompt_of(row, ("query", "question", *QUESTIONS))
    if prompt is not None and prompt.turns[0].role == "text":  # asked for by name
        prompt = Prompt((Turn("user", prompt.turns[0].content.strip()),))
    return _prompt_alone(prompt, "query")


@register(
    "messages-prompts",
    kind="prompt",
    source="https://huggingface.co/docs/trl/dataset_formats",
    fields="messages: [{role, content}] or conversations, ending on a user's turn",
    recognises=lambda row: any(is_chat(row.get(name)) for name in CONVERSATIONS),
)
def read_messages_prompt(row: Row) -> Candidates:
    """The conversation up to its last user turn; what the assistant says after it is not needed."""
    name = next((name for name in CONVERSATIONS if is_chat(peek(row, name))), CONVERSATIONS[0])
    return _prompt_alone(Prompt(tuple(chat_turns(row, name))), name)


@register(
    "red-team",
    kind="prompt",
    fields=r'transcript: "\n\nHuman: ...\n\nAssistant: ...", of which the first question is the prompt',
    recognises=lambda row: isinstance(row.get("transcript"), str) and bool(transcript_turns(row["transcript"])),
    source="https://huggingface.co/datasets/Anthropic/hh-rlhf",
)
def read_red_team(row: Row) -> Candidates:
    """The question alone: the answers of an attacked model are no demonstrations."""
    turns = transcript_turns(text(row, "transcript"))
    if not turns:
        raise Drop("field 'transcript': does not start with a speaker tag")
    asked_first = next((number for number, turn in enumerate(turns) if turn.role == "assistant"), len(turns))
    return _prompt_alone(Prompt(tuple(turns[:asked_first])), "transcript")
