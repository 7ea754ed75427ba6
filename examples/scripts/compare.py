"""Methods side by side, from one start, on the same held-out prompts, with error bars. Needs 'prefopt[compare]'.

python compare.py --tiny
python compare.py --model sft --data pairs.jsonl --held_out test.jsonl
"""

from common import options
from rich.console import Console

from prefopt.compare import compare
from prefopt.compare.report import print_summary

args = options(__doc__, "comparison", data="pairs.jsonl", held_out="test.jsonl")
training = {"bf16": False, "max_length": 128, "max_steps": 4} if args.tiny else {"max_length": 512}
sizes = {"prompts": 8, "pairs": 16, "responses_per_prompt": 1, "max_new_tokens": 16, "curve_points": 0}
plan = {
    "title": "DPO and SimPO",
    "policy": args.model,
    "data": {"train": args.data, "test": args.held_out},
    "methods": {"dpo": {"beta": 0.1}, "simpo": {"learning_rate": 5e-7}},
    "training": training,
    "seeds": [0] if args.tiny else [0, 1, 2, 3, 4],
    **({"evaluation": sizes} if args.tiny else {}),
}
if __name__ == "__main__":  # its processes import this file
    print_summary(compare(plan, args.output_dir), Console())
