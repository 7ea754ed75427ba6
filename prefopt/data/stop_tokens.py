"""Which token ends a response: the chat template's end of turn, or the end of the text."""

from typing import TYPE_CHECKING, Any

from .records import DataError
from .rendering import PROBE, render

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedTokenizerBase


def stop_token_ids(
    tokenizer: "PreTrainedTokenizerBase", generation_config: "GenerationConfig | None" = None
) -> list[int]:
    """The ids on which sampling stops; the first is the one that ends every response in training.

    That is the chat template's end of turn when sampling may stop on it (it is the tokenizer's EOS or one of the
    generation config's), else EOS.
    """
    allowed = _eos_ids(tokenizer, generation_config)
    end = end_of_turn(tokenizer)
    return [end, *(i for i in allowed if i != end)] if end in allowed else allowed


def _eos_ids(tokenizer: "PreTrainedTokenizerBase", generation_config: "GenerationConfig | None") -> list[int]:
    """The tokens on which sampling stops, the tokenizer's own first."""
    configured: Any = getattr(generation_config, "eos_token_id", None)
    configured = [configured] if isinstance(configured, int) else list(configured or [])
    end = end_of_text(tokenizer)
    own = [] if end is None else [end]
    ids = list(dict.fromkeys(own + configured))
    if not ids:
        raise DataError("the tokenizer has no EOS token, so no response could ever end; set tokenizer.eos_token")
    return ids


def end_of_text(tokenizer: "PreTrainedTokenizerBase") -> int | None:
    """The token that ends a text: EOS, or SEP for an encoder such as BERT, which has no other."""
    end: Any = tokenizer.eos_token_id
    if end is None:
        end = getattr(tokenizer, "sep_token_id", None)
    return None if end is None else int(end)


def end_of_turn(tokenizer: "PreTrainedTokenizerBase") -> int | None:
    """The special token that the chat template writes after an answer, if it has a template and writes one."""
    if not tokenizer.chat_template:
        return None
    after = after_answers(tokenizer)
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    ids = tokenizer(after, add_special_tokens=False)["input_ids"]
    return next((i for i in ids if i in special), None)  # type: ignore[union-attr]


def after_answers(tokenizer: "PreTrainedTokenizerBase") -> str:
    """What the chat template writes after the last answer."""
    rendered = render(tokenizer, [{"role": "user", "content": "a question"}, {"role": "assistant", "content": PROBE}])
    return rendered.rpartition(PROBE)[2]
