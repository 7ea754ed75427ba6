"""A format of your own: a function from a row to a prompt and its answers, the better one first.

    python custom_adapter.py --tiny

On the command line it is --adapter custom_adapter:forum_rows.
"""

from pathlib import Path

from prefopt import DPOConfig, DPOTrainer, load_preferences
from prefopt.data import Candidates, Turn


def forum_rows(row: dict) -> Candidates:
    """A row of a forum: a title, and answers with votes."""
    answers = sorted(row["answers"], key=lambda answer: -answer["votes"])
    return Candidates((Turn("user", row["title"]),), tuple(answer["text"] for answer in answers[:2]))


if __name__ == "__main__":
    from common import options

    from prefopt.testbed import write_jsonl

    args = options(__doc__, "custom-adapter", data="forum.jsonl")
    if args.tiny:
        answers = [{"text": "试试重启。", "votes": 1}, {"text": "Read the log: it says which file.", "votes": 7}]
        args.data = str(
            write_jsonl(Path("out/tiny/forum.jsonl"), [{"title": f"Q{i}", "answers": answers} for i in range(16)])
        )
    pairs = load_preferences(args.data, adapter="custom_adapter:forum_rows")
    trainer = DPOTrainer(args.model, args=DPOConfig(args.output_dir, **args.short), train_dataset=pairs)
    trainer.train()
    trainer.save_model()
    print(trainer.summary())
