"""The synthetic task made multi-turn: dialogues, and an instruction on how to begin, which the gold check can decide.

The demonstrations teach to obey an instruction in the turn that gives it, and not to go on obeying: the policy that
learns from them forgets, as Llama 2's chat models did before Ghost Attention.
"""

import random
from collections.abc import Sequence
from typing import Any

from ..data.gatt import Constraint, Instruction
from .gold_reward import gold
from .language import LANGUAGES, SEPARATOR, Words
from .prompts import KINDS, Fact, Message, Prompt, facts, find_prompt, plain_reply, questions
from .rows import Row

OPENINGS = (
    Words("Captain!", "船长！"),
    Words("Listen!", "听着！"),
    Words("Indeed!", "确实！"),
    Words("My dear!", "亲爱的！"),
)
ORDER = Words("Begin with {value}", "开头说{value}")
INSTRUCTED = 0.6  # the share of demonstrations whose last turn gives an instruction


def opening_instruction(opening: Words, language: str) -> Instruction:
    """To begin every answer with these words."""
    value = opening.of(language)
    order = ORDER.of(language).format(value=value)
    return Instruction((Constraint("opening", order, order, (value,)),), language)


def sample_dialogues(n: int, seed: int, *, turns: int, split: str = "train") -> list[list[Message]]:
    """`n` dialogues of so many questions in one language, each but the last with its plain right answer.

    The last question, asked alone, is a prompt of the split: whether it is held out depends on nothing else.
    """
    rng = random.Random(f"dialogues {split} {turns} {seed}")
    return [_sample(rng, turns, split) for _ in range(n)]


def _sample(rng: random.Random, turns: int, split: str) -> list[Message]:
    language = rng.choice(LANGUAGES)
    said: list[Message] = []
    for number in range(turns):
        fact, question = _asked(rng, language, split)
        said.append({"role": "user", "content": question})
        if number < turns - 1:
            said.append({"role": "assistant", "content": plain_reply(fact, language, rng)})
    return said


def _asked(rng: random.Random, language: str, split: str) -> tuple[Fact, str]:
    while True:
        fact = rng.choice(facts(rng.choice(KINDS)))
        question = rng.choice(questions(fact, language))
        if Prompt((("user", question),), fact, language).split == split:
            return fact, question


def sample_openings(dialogues: Sequence[Sequence[Message]], seed: int) -> list[Instruction]:
    """An instruction for each dialogue, in its language."""
    rng = random.Random(f"openings {seed}")
    found = (find_prompt(dialogue) for dialogue in dialogues)
    return [opening_instruction(rng.choice(OPENINGS), prompt.language) for prompt in found]


def dialogue_sft_rows(n: int, seed: int, *, turns: int, split: str = "train") -> list[Row]:
    """`n` demonstrations of one to so many turns: an instruction holds for the answer to the turn that gives it.

    In half of those with one, every turn gives it, and every answer obeys.
    """
    rng = random.Random(f"dialogue sft {split} {seed}")
    return [_demonstration(rng, rng.randint(1, turns), split) for _ in range(n)]


def _demonstration(rng: random.Random, turns: int, split: str) -> Row:
    said = _sample(rng, turns, split)
    prompt = find_prompt(said)
    reply = plain_reply(prompt.fact, prompt.language, rng)
    if rng.random() < INSTRUCTED:
        instruction = opening_instruction(rng.choice(OPENINGS), prompt.language)
        everywhere = rng.random() < 0.5
        for number, turn in enumerate(said):
            if turn["role"] == "user" and (everywhere or number == len(said) - 1):
                turn["content"] = f"{instruction.text}\n\n{turn['content']}"
            elif everywhere:
                turn["content"] = obeying(instruction, turn["content"])
        reply = obeying(instruction, reply)
    elif turns > 1 and rng.random() < 0.5:  # one that an earlier turn gave, and that is over
        instruction = opening_instruction(rng.choice(OPENINGS), prompt.language)
        said[0]["content"] = f"{instruction.text}\n\n{said[0]['content']}"
        said[1]["content"] = obeying(instruction, said[1]["content"])
    return {"prompt": said, "response": reply}


def obeying(instruction: Instruction, reply: str) -> str:
    """A reply with the opening before it."""
    return instruction.constraints[0].accepts[0] + SEPARATOR[instruction.language] + reply


def instructed_gold(messages: Sequence[Any], instruction: Instruction, response: str) -> tuple[bool, float]:
    """Whether a response begins as it is told to, and the gold reward of the rest of it.

    Args:
        messages: a dialogue without the instruction, up to the question.
    """
    opening = instruction.constraints[0].accepts[0]
    obeys = response.startswith(opening)
    return obeys, gold(find_prompt(messages[-1:]), response.removeprefix(opening).lstrip() if obeys else response)
