"""A judge of your own: which of two responses is better. Here it compares two policies on the same prompts.

    python custom_judge.py --tiny

In a plan it is `judges: [custom_judge:shorter]`. Needs 'prefopt[compare]'.
"""


def shorter(prompts: list, first: list[str], second: list[str]) -> list[float]:
    """1 where the first is better, 0 where the second is, and 0.5 for a tie."""
    return [0.5 if len(a) == len(b) else float(len(a) < len(b)) for a, b in zip(first, second, strict=True)]


if __name__ == "__main__":
    from common import options

    from prefopt.cli import main

    args = options(__doc__, "custom-judge", held_out="test.jsonl")
    sizes = ["--prompts", "8", "--responses_per_prompt", "1", "--max_new_tokens", "24"] if args.tiny else []
    words = ["evaluate", f"before={args.model}", f"after={args.model}", "--data", args.held_out]
    main([*words, "--judges", "custom_judge:shorter", "--output_dir", args.output_dir, *sizes])
