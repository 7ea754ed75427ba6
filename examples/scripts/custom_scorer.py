"""A scorer of your own: a function of prompts and responses that gives numbers. Here, the best of 4 by it.

    python custom_scorer.py --tiny

On the command line it is --scorer custom_scorer:brief.
"""


def brief(prompts: list, responses: list[str]) -> list[float]:
    """Short answers that end as a sentence does."""
    return [float(text.strip().endswith((".", "!", "?", "。"))) - len(text) / 1000 for text in responses]


if __name__ == "__main__":
    from common import options

    from prefopt import best_of_n
    from prefopt.models import load_policy, load_tokenizer
    from prefopt.objectives import SamplingArguments

    args = options(__doc__, "custom-scorer", prompts="prompts.jsonl")
    questions = [[{"role": "user", "content": text}] for text in ("What is 2 + 3?", "谢谢你！")]
    settings = SamplingArguments(responses_per_prompt=4, max_new_tokens=32)
    found = best_of_n(load_policy(args.model), load_tokenizer(args.model), questions, brief, settings)
    for question, best in zip(questions, found, strict=True):
        print(question[0]["content"], "→", best.sample.text)
