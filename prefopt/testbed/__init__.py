"""A small bilingual world with a known gold reward: prompts, responses, preferences, files, a tiny model.

Everything comes from a seed, without a download. `build_tokenizer` and `build_policy` are in
`prefopt.testbed.model`: importing this package loads neither torch nor transformers.
"""

from ..grades import GRADES
from .files import hh_rlhf, rm_static, rrhf, transcript, write_all, write_jsonl
from .gold_reward import gold, gold_of, parse, sentences
from .people import demonstrate, grade, ideal, perceive
from .recipe import Recipe
from .rows import candidate_rows, pairs_from, preference_rows, prompt_rows, sft_rows
from .world import Fact, Prompt, draw_prompt, draw_prompts, find_prompt

__all__ = [
    "GRADES",
    "Fact",
    "Prompt",
    "Recipe",
    "candidate_rows",
    "demonstrate",
    "draw_prompt",
    "draw_prompts",
    "find_prompt",
    "gold",
    "gold_of",
    "grade",
    "hh_rlhf",
    "ideal",
    "pairs_from",
    "parse",
    "perceive",
    "preference_rows",
    "prompt_rows",
    "rm_static",
    "rrhf",
    "sentences",
    "sft_rows",
    "transcript",
    "write_all",
    "write_jsonl",
]
