"""What a run says to the chat template: in its rows, its checkpoint and its samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from prefopt import DPOConfig, DPOTrainer
from prefopt.data import DataError
from prefopt.generation import sample
from tests.helpers.models import tiny_llama
from tests.helpers.tokenizers import TOOLS, make_tokenizer
from tests.helpers.training import quiet

Q = {"role": "user", "content": "几点？"}
TOOL = {"type": "function", "function": {"name": "时钟"}}
CALL = {"role": "assistant", "tool_calls": [{"type": "function", "function": {"name": "时钟", "arguments": {}}}]}
SAID = {"role": "assistant", "content": "不知道。"}


def expected(**given: Any) -> list[int]:
    fresh: Any = make_tokenizer(TOOLS, eos="<|im_end|>")
    return list(fresh.apply_chat_template([Q], add_generation_prompt=True, **given)["input_ids"])


def test_a_run_trains_saves_and_samples_by_its_variables(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"prompt": [Q], "chosen": [CALL], "rejected": [SAID], "tools": [TOOL]},
        {"prompt": [Q], "chosen": [SAID], "rejected": [{**SAID, "content": "?"}]},
    ]
    args = DPOConfig(**quiet(tmp_path, max_steps=1), chat_template_kwargs={"enable_thinking": False})
    tokenizer = make_tokenizer(TOOLS, eos="<|im_end|>")
    trainer = DPOTrainer(tiny_llama(), args=args, train_dataset=rows, processing_class=tokenizer)
    trained = [list(ids) for ids in trainer.train_dataset["prompt_ids"]]
    assert trained == [expected(tools=[TOOL], enable_thinking=False), expected(enable_thinking=False)]
    trainer.train()
    trainer.save_model(str(tmp_path / "out"))
    saved = AutoTokenizer.from_pretrained(tmp_path / "out")
    prompts: Any = [[{**Q, "tools": [TOOL]}], [Q]]
    sampled = sample(trainer.model, saved, prompts, max_new_tokens=2)
    assert [response.prompt_ids for (response,) in sampled] == trained


def test_a_variable_that_the_template_does_not_read_is_refused(tmp_path: Path) -> None:
    rows = [{"prompt": [Q], "chosen": "a", "rejected": "b"}]
    args = DPOConfig(**quiet(tmp_path), chat_template_kwargs={"thinking": False})
    with pytest.raises(DataError, match="reads no variable 'thinking'; did you mean enable_thinking"):
        DPOTrainer(tiny_llama(), args=args, train_dataset=rows, processing_class=make_tokenizer(TOOLS))
