"""Who writes a prompt and its responses as text, with the chat template or plainly.

Later answers of a conversation are looked for here in what the template makes of it (`Renderer.response`).
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from os.path import commonprefix
from typing import TYPE_CHECKING, Any, NamedTuple

from .records import TEXTS_BESIDE, THOUGHTS, TURN_EXTRAS, DataError, is_answer
from .rendering import Message, render, render_all, thought_key, tool_keys
from .stop_tokens import after_answers, end_of_text, stop_token_ids
from .template_variables import are_plain, names_of_calls, unread_inputs

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedTokenizerBase

THOUGHT = THOUGHTS[0]
SPEAKERS = {"user": "\n\nHuman: ", "assistant": "\n\nAssistant: ", "tool": "\n\nTool: ", "system": ""}


class Segment(NamedTuple):
    """A stretch of a response: an answer, trained on and ended by the stop token, or what is between answers.

    An answer that was truncated is not `finished`: it is trained on without a stop token. One that calls tools, or has
    a thought, is `templated`: the template wrote it, and meant the special tokens in it. `space_after` is what the
    template writes between an answer and its stop token, which the policy has to write, too.
    """

    text: str
    trained: bool
    finished: bool = True
    templated: bool = False
    space_after: str = ""

    @property
    def whole(self) -> str:
        """Everything that is trained on but the stop token."""
        return self.text + self.space_after if self.finished else self.text


class Rendering(NamedTuple):
    """A response as segments, whether the template agrees with them, and how many later answers it leaves out.

    One is `unwritten` that calls tools in a way that the template does not write after the prompt.
    """

    segments: list[Segment]
    agrees: bool = True
    dropped: int = 0
    unwritten: bool = False


UNWRITTEN = Rendering([Segment("", True)], unwritten=True)


class Renderer:
    """Writes prompts and responses as text, with the chat template when the tokenizer has one, else plainly."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", generation_config: "GenerationConfig | None" = None):
        if type(tokenizer).__name__ == "MistralCommonBackend":
            raise DataError(
                "MistralCommonBackend writes conversations by itself and has no chat template that tells where an "
                "answer begins: load the tokenizer with AutoTokenizer and give it a chat_template"
            )
        self.tokenizer = tokenizer
        self.stop = stop_token_ids(tokenizer, generation_config)[0]
        self.stop_text = str(tokenizer.decode([self.stop], skip_special_tokens=False))
        end = end_of_text(tokenizer)
        self.eos = self.stop if end is None else end
        self._rendered: dict[Any, str] = {}

    def prepare(self, rows: Iterable[tuple[list[Message], list[list[Message]]]]) -> None:
        """Render in two calls what the rows of a batch need, where their conversations are plain.

        Args:
            rows: the prompt of each with its responses, as turns.
        """
        self._rendered.clear()
        if not self.tokenizer.chat_template:
            return
        wanted: dict[bool, dict[Any, list[Message]]] = {True: {}, False: {}}
        for prompt, tails in rows:
            if is_bare(prompt) or not are_plain(prompt):
                continue
            wanted[True][_key(prompt, True)] = prompt
            for tail in tails:
                if not are_plain(tail):
                    continue
                wanted[False][_key(prompt + tail, False)] = prompt + tail
                for number, turn in enumerate(tail):
                    if number and is_answer(turn):
                        wanted[True][_key(prompt + tail[:number], True)] = prompt + tail[:number]
        for is_prompt, conversations in wanted.items():
            texts = render_all(self.tokenizer, list(conversations.values()), is_prompt) if conversations else None
            if texts is not None:
                self._rendered.update(zip(conversations, texts, strict=True))

    def _render(self, messages: list[Message], prompt: bool = False) -> str:
        """The template's text of a conversation, as `prepare` has rendered it, or now."""
        found = self._rendered.get(_key(messages, prompt)) if self._rendered and are_plain(messages) else None
        return render(self.tokenizer, messages, prompt) if found is None else found

    @cached_property
    def closing(self) -> str:
        """What the template writes after an answer, less the space around it."""
        return after_answers(self.tokenizer).strip()

    def templated(self, prompt: list[Message]) -> bool:
        """Bare text has no speaker, hence no template."""
        return bool(self.tokenizer.chat_template) and not is_bare(prompt)

    def prompt(self, prompt: list[Message]) -> str:
        """The text up to the first character of the answer."""
        if is_bare(prompt):
            return prompt[0]["content"] if prompt else ""
        if self.tokenizer.chat_template:
            return self._render(prompt, prompt=True)
        return "".join(map(_spoken, prompt)) + SPEAKERS["assistant"].rstrip()

    def end(self, prompt: list[Message]) -> int:
        """The stop token of a response to this prompt."""
        return self.eos if is_bare(prompt) else self.stop

    def response(self, prompt: list[Message], opening: str, tail: list[Message]) -> Rendering:
        """The segments of a response: one answer, or answers with the turns between.

        `opening` is the prompt's text. The template agrees when it renders the whole conversation as exactly these
        segments, each answer with its stop token, following the prompt. Space that it writes around an answer belongs
        to the answer. Some templates insert or strip text by position; then the segments are still what sampling would
        see. An earlier answer that the template trims is trained trimmed; one that it rewrites ends the response, as
        nothing tells where the next answer would begin.
        """
        if not self.templated(prompt) and any(map(_calls, tail)):
            return UNWRITTEN
        if is_bare(prompt):
            return Rendering([Segment(tail[0]["content"], True)])
        if not self.tokenizer.chat_template:
            return Rendering(self._plain(tail))
        return self._templated(prompt, opening, tail)

    def leaves_out(self, prompt: Sequence[Mapping[str, Any]]) -> bool:
        """Whether a prompt brings something for a template that is written nowhere."""
        if is_bare(prompt):
            return any(turn.get(name) for turn in prompt for name in TURN_EXTRAS)
        if any(turn.get(THOUGHT) for turn in prompt) and not self._thinks:
            return True
        return unread_inputs(self.tokenizer, prompt)

    def leaves_keys_out(self, turns: Sequence[Mapping[str, Any]]) -> bool:
        """Whether tools' turns among these have keys that the template does not read."""
        if are_plain(turns):
            return False
        found = {name for turn in turns for name in TEXTS_BESIDE["tool"] if turn.get(name)}
        return bool(found) and not (self.tokenizer.chat_template and found <= tool_keys(self.tokenizer))

    @cached_property
    def _thinks(self) -> bool:
        """Whether the template writes thoughts."""
        return bool(self.tokenizer.chat_template) and thought_key(self.tokenizer) is not None

    def _plain(self, tail: list[Message]) -> list[Segment]:
        """The segments in the form that has no template."""
        segments, between = [], ""
        for number, turn in enumerate(tail):
            if not is_answer(turn):
                between += _spoken(turn)
                continue
            if number:
                segments.append(Segment(between + SPEAKERS["assistant"].rstrip(), False))
            segments.append(Segment(" " + turn["content"].lstrip(), True))
            between = ""
        return segments

    def _templated(self, prompt: list[Message], opening: str, tail: list[Message]) -> Rendering:
        """The segments as the template writes them, found by where each answer stands in its text."""
        answers = [number for number, turn in enumerate(tail) if is_answer(turn)]
        segments: list[Segment] = []
        agrees = True
        for done, (number, next_number) in enumerate(pairwise(answers), 1):
            said = self._answer(prompt + tail[: number + 1], opening)
            if said is None:
                return UNWRITTEN
            following = self._render(prompt + tail[:next_number], prompt=True)
            said = (
                _as_kept(said, following, opening, self.closing)
                if said.templated
                else self._spaced(said, following, opening)
            )
            split = self._within(said.text, following, opening)
            if split is None:
                return Rendering([*segments, said], False, len(answers) - done)
            answer, between = split
            said = said._replace(text=answer)
            agrees &= following.startswith(opening + said.whole + self.stop_text)
            segments += [said, Segment(between, False)]
            opening = following
        last = self._answer(prompt + tail, opening)
        if last is None:
            return UNWRITTEN
        whole = self._render(prompt + tail)
        last = last if last.templated else self._spaced(last, whole, opening)
        agrees &= whole.startswith(opening + last.whole + self.stop_text)
        return Rendering([*segments, last], agrees)

    def _spaced(self, answer: Segment, conversation: str, opening: str) -> Segment:
        """An answer with the space that the template writes around it: Llama 2's has one before and one after."""
        place = conversation.find(answer.text, len(opening)) if conversation.startswith(opening) else -1
        before, rest = conversation[len(opening) : place], conversation[place + len(answer.text) :]
        stopped = rest.lstrip()
        if place < 0 or before.strip() or not stopped.startswith(self.stop_text):
            return answer
        return answer._replace(text=before + answer.text, space_after=rest[: len(rest) - len(stopped)])

    def _answer(self, conversation: list[Message], opening: str) -> Segment | None:
        """The answer that ends a conversation: its text, or what the template writes for it if that is more.

        None if the template does not write the calls of such an answer, each by its name, after the opening, or ends it
        otherwise than others. A thought that it does not write there is left out, see `thoughts_left_out`.
        """
        turn = conversation[-1]
        thought = turn.get(THOUGHT, "") if self._thinks else ""
        alone = None if _calls(turn) else Segment(turn["content"], True)
        if alone is not None and not thought:
            return alone
        whole = self._render(conversation)
        written = whole.removeprefix(opening).rstrip()
        if not whole.startswith(opening) or not written.endswith(self.closing):
            return alone
        text = written.removesuffix(self.closing)
        if _calls(turn):
            return Segment(text, True, templated=True) if all(name in text for name in names_of_calls(turn)) else None
        return (
            Segment(text, True, templated=True)
            if thought.strip() in text and turn["content"].strip() in text
            else alone
        )

    def _within(self, answer: str, following: str, opening: str) -> tuple[str, str] | None:
        """An answer as the template writes it, verbatim or trimmed, and what follows its stop token; None if rewritten.

        Trimmed is what it is when that text comes before any verbatim one, which is then somebody else's.
        """
        start = len(opening) if following.startswith(opening) else len(commonprefix([following, opening]))
        trimmed, place = following.find(answer.strip(), start), following.find(answer, start)
        if trimmed < 0:
            return None
        if not 0 <= place <= trimmed:
            answer, place = answer.strip(), trimmed
        rest = following[place + len(answer) :]
        stopped = rest.lstrip()
        return answer, stopped.removeprefix(self.stop_text) if stopped.startswith(self.stop_text) else rest


def thoughts_left_out(tail: Sequence[Mapping[str, str]], segments: Sequence[Segment]) -> bool:
    """Whether some answer of a response is trained on without the thought that it has."""
    answers = zip(filter(is_answer, tail), (segment for segment in segments if segment.trained), strict=False)
    return any(turn.get(THOUGHT, "").strip() not in segment.text for turn, segment in answers)


def _key(messages: Sequence[Message], prompt: bool) -> Any:
    """What tells a plain conversation from others, and whether it is a prompt."""
    return prompt, *[(turn["role"], turn["content"]) for turn in messages]


def _spoken(turn: Message) -> str:
    """A turn in the plain form."""
    if turn["role"] not in SPEAKERS:
        raise DataError(f"unknown role {turn['role']!r}; without a chat template there are {', '.join(SPEAKERS)}")
    return SPEAKERS[turn["role"]] + turn["content"]


def _as_kept(call: Segment, following: str, opening: str, closing: str) -> Segment:
    """A call or a thoughtful answer as it stands in what follows: Qwen3's template writes the last one's thought."""
    kept = following.removeprefix(opening).partition(closing)[0] if closing else call.text
    return call._replace(text=kept) if following.startswith(opening) and kept and call.text.endswith(kept) else call


def _calls(turn: Message) -> bool:
    """Whether a turn calls tools."""
    return bool(turn.get("tool_calls"))


def is_bare(prompt: Sequence[Mapping[str, str]]) -> bool:
    """Whether a prompt is bare text (or empty), which is encoded verbatim."""
    return not prompt or (len(prompt) == 1 and prompt[0]["role"] == "text")
