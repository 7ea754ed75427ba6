"""`prefopt chat`: lets a model answer, once or in a conversation, encoded and sampled as training does it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..utils.visible import visible
from .command import Command

if TYPE_CHECKING:
    from ..generation.stopping import SequenceState

ABOUT = """\
Let a model answer: in a conversation on a terminal, once with --prompt, or once to what comes through a pipe. The
chat template is the tokenizer's own; a model without one gets plain turns, as in training. Adapters are loaded on
their base. Answers go to standard output, all else to standard error.
"""
EXAMPLE = """\
  prefopt chat out/dpo
  prefopt chat HuggingFaceTB/SmolLM2-135M-Instruct --prompt "Why is the sky blue?" --temperature 0
  cat question.txt | prefopt chat out/dpo --system "Answer in one sentence."
"""
HELP = "/new begins a new conversation, /again answers the last question anew, /quit ends (or Ctrl-D)"
LONGEST = 512
"""Tokens of an answer, where the model's context has room for as many before it."""
PLAIN_TURN = "\n\nHuman:"
"""What a model without a chat template begins the user's next turn with."""


@dataclass
class Chat:
    """A conversation with a model.

    Args:
        answer: turns, the number of the answer, and what is handed its text as it grows -> the whole answer.
        system: the system prompt.
    """

    answer: Callable[[list[dict[str, str]], int, Callable[[str], None]], str]
    system: str | None = None
    turns: list[dict[str, str]] = field(default_factory=list)
    count: int = 0

    def ask(self, text: str, show: Callable[[str], None]) -> str:
        """The answer to a user's turn, which both stay in the conversation.

        Raises:
            ValueError: it does not fit into the model's context; then neither stays.
        """
        turns = self.turns or ([{"role": "system", "content": self.system}] if self.system else [])
        asked = [*turns, {"role": "user", "content": text}]
        said = self.answer(asked, self.count, show)
        self.count += 1
        self.turns = [*asked, {"role": "assistant", "content": said}]
        return said

    def take_back(self) -> str | None:
        """Forget the last question and its answer; the question, if there was one."""
        if not self.turns:
            return None
        question = self.turns[-2]["content"]
        self.turns = self.turns[:-2]
        return question


def main(command: Command, prog: str, argv: Sequence[str]) -> int:
    """Parse, load, answer; returns the exit code."""
    args = _parser(prog).parse_args(list(argv))
    prompt = args.prompt if args.prompt is not None or sys.stdin.isatty() else sys.stdin.read().strip()
    if prompt is not None and not prompt.strip():
        raise ValueError("the prompt is empty: write one, by --prompt or into the pipe")
    from .console import quiet_libraries, set_up_logging
    from .models import policy_in

    set_up_logging()
    quiet_libraries()
    chat = Chat(_answers(args, policy_in(args.model)), args.system)
    if prompt is not None:
        _shown(chat, prompt)
        return 0
    return _converse(chat)


def _answers(args: argparse.Namespace, model: str) -> Callable[..., str]:
    """Loads the model; what answers by it."""
    from accelerate import PartialState

    from ..generation import sample
    from ..models.critic import has_reward_head
    from ..training.arguments import LoadingArguments
    from .models import load_for_sampling

    wanted = {"load_in_4bit": args.load_in_4bit, "load_in_8bit": args.load_in_8bit, "dtype": args.dtype}
    loading = LoadingArguments(model_name_or_path=model, model_revision=args.revision, **wanted)
    if has_reward_head(model):
        raise ValueError(f"{model} is a reward model, which scores answers and gives none: give a policy")
    policy, tokenizer = load_for_sampling(loading, PartialState().device)
    longest = args.max_new_tokens or min(LONGEST, _positions(policy) // 2)
    stop = [PLAIN_TURN] if not tokenizer.chat_template else []
    if stop:
        print("this model has no chat template: it reads plain turns, Human: and Assistant:", file=sys.stderr)

    def answer(turns: list[dict[str, str]], number: int, show: Callable[[str], None]) -> str:
        settings: dict[str, Any] = {"temperature": args.temperature, "top_p": args.top_p, "top_k": args.top_k}
        limits: dict[str, Any] = {"max_new_tokens": longest, "stop_strings": stop}
        watch = Growing(lambda ids: str(tokenizer.decode(ids, skip_special_tokens=True)), show)
        [[found]] = sample(
            policy, tokenizer, [turns], **settings, **limits, seed=args.seed, stream=(number,), on_token=watch
        )
        watch.end(found.text)
        if not found.finished:
            print(f"[cut off at --max_new_tokens {longest}]", file=sys.stderr)
        return found.text

    return answer


def _positions(policy: Any) -> int:
    """The model's context, in tokens."""
    return getattr(policy.config.get_text_config(), "max_position_embeddings", None) or 2 * LONGEST


class Growing:
    """Shows what has come of a response, whole characters alone, and never what a stop string may take away again."""

    def __init__(self, decode: Callable[[list[int]], str], show: Callable[[str], None]):
        self.decode, self.show, self.shown = decode, show, ""

    def __call__(self, sequence: SequenceState) -> None:
        text = self.decode(sequence.ids).lstrip()
        for end in range(1, len(PLAIN_TURN) + 1):
            if text.endswith(PLAIN_TURN[:end]):
                text = text[: len(text) - end]
                break
        self._go_on(text.rstrip("\N{REPLACEMENT CHARACTER} \n"))

    def end(self, text: str) -> None:
        """Show the rest of the whole response."""
        self._go_on(text)
        self.show("\n")

    def _go_on(self, text: str) -> None:
        if text.startswith(self.shown) and len(text) > len(self.shown):
            self.show(visible(text[len(self.shown) :]))
            self.shown = text


def _shown(chat: Chat, prompt: str) -> str:
    def show(part: str) -> None:
        print(part, end="", flush=True)

    return chat.ask(prompt, show)


def _converse(chat: Chat) -> int:
    print(HELP, file=sys.stderr)
    for line in _lines():
        question: str | None = line.strip()
        if question in ("/quit", "/exit"):
            break
        if question == "/new":
            chat.turns = []
            continue
        if question == "/again":
            question = chat.take_back()
        elif question and question.startswith("/"):
            print(f"unknown {question}; {HELP}", file=sys.stderr)
            continue
        if not question:
            continue
        try:
            _shown(chat, question)
        except ValueError as error:
            print(f"{error}; /new begins a new conversation", file=sys.stderr)
    return 0


def _lines() -> Iterator[str]:
    """What a user types, until its end."""
    with_history()
    while True:
        try:
            yield input("> ")
        except EOFError:
            print(file=sys.stderr)
            return


def with_history() -> None:
    """Let arrow keys edit the line and bring back earlier ones, where Python has readline."""
    try:
        import readline  # noqa: F401
    except ImportError:
        return


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog, description=ABOUT, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add: Any = parser.add_argument
    add("model", metavar="MODEL", type=_expanded, help="folder of a model, an adapter or a run, or a hub id")
    add("--prompt", metavar="TEXT", help="answer this, once")
    add("--system", metavar="TEXT", help="system prompt")
    add("--temperature", type=float, default=0.7, help="0 always takes the likeliest token (%(default)s)")
    add("--top_p", type=float, default=1.0, help="sample from the likeliest tokens of this share (%(default)s)")
    add("--top_k", type=int, default=0, help="sample from so many of the likeliest tokens, 0 from all (%(default)s)")
    add("--max_new_tokens", type=int, help=f"longest answer, in tokens ({LONGEST}, or half of the model's context)")
    add("--seed", type=int, default=0, help="the same seed gives the same answers (%(default)s)")
    add("--dtype", default="auto", help="of the weights: auto, float32, bfloat16 or float16 (%(default)s)")
    add("--load_in_4bit", action="store_true", help="load the model in 4 bits")
    add("--load_in_8bit", action="store_true", help="load the model in 8 bits")
    add("--revision", default="main", help="branch, tag or commit of a model on the hub (%(default)s)")
    return parser


def _expanded(name: str) -> str:
    return str(Path(name).expanduser()) if name.startswith("~") else name
