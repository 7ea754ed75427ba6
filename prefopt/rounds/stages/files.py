"""The files by which stages hand on what they made."""

from __future__ import annotations

from typing import Any

from ...compare.run import MODEL
from ...models import merge_adapter
from ..context import StageContext

PROMPTS, LABELS, HELD_OUT, SELECTED, POOL = "prompts.jsonl", "labels.jsonl", "held_out.jsonl", "selected.jsonl", "pool"
Result = dict[str, Any]


def saved(context: StageContext, trainer: Any, cost: Any, merge: bool = True) -> Result:
    """Save what was trained, an adapter merged into the policy: the next round may have an adapter of its own."""
    if merge and getattr(trainer.model, "peft_config", None):
        trainer.model = merge_adapter(trainer.model)
    trainer.save_model(str(context.folder / MODEL))
    return {"cost": cost}
