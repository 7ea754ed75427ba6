"""`RewardModelScorer`: scores responses by a reward model, with the model's own tokenizer, template and stop token."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate.utils import extract_model_from_parallel
from peft import PeftModel
from torch import nn
from tqdm.auto import tqdm
from transformers import GenerationConfig, PreTrainedTokenizerBase

from ..batch import Batch
from ..data.batching import split_by_tokens
from ..data.collate import collate
from ..data.records import Messages
from ..data.row_encoder import UNREAD, Encoder
from ..data.truncation import Encoding
from ..models.forward import forward
from ..models.heads import LM_HEAD, check_scorer, is_scorer, normalize
from ..models.load import load_scorer
from ..models.lockstep import in_step, is_gathered
from ..models.modes import evaluating, freeze, is_quantized
from ..models.positions import check_lengths
from ..models.reference import FrozenModel, fingerprint
from ..models.rope_lengths import length_rules
from ..models.tokenizers import load_tokenizer
from ..models.wrappers import unwrap
from ..utils.distributed import or_all_stop
from ..utils.flop_counter import scope
from .scorer import all_finished, checked

logger = logging.getLogger(__name__)

T = TypeVar("T")
SCORES = frozenset({"scores"})
TOO_LONG = "RewardModelScorer(..., encoding=Encoding(max_length={limit})) truncates texts to that"
"""What to do about rows that are longer than the reward model's positions."""
Ids = tuple[list[int], list[int]]
"""The ids of a prompt and of a response."""


class RewardModelScorer:
    """Scores as in reward training: the prompt as sampling sees it, the response with one stop token if it finished.

    A response that the length limit cut off gets no stop token and is scored at its last token.

    Args:
        model: path, hub id or adapter folder of a reward model, or the model. One that is handed in may train on: its
            scores and its fingerprint are those of its weights at the time.
        tokenizer: by default the one in the model's folder.
        normalized: give (score - mean) / std where the model stores these. False gives the head's own scores, of
            which the sigmoid is a probability (what `SafetyFirst` reads).
        encoding: how long a sequence may be and what gives way; by default as in training.
        generation_config: what ends a response beside the tokenizer's EOS; by default the one in the model's folder.
        tokens_per_batch: how many tokens the model sees at once.
        load: for `load_scorer`, such as `dtype`.

    Raises:
        ValueError: a model without a trained reward head, or with several labels.
    """

    def __init__(
        self,
        model: str | Path | nn.Module,
        tokenizer: PreTrainedTokenizerBase | None = None,
        *,
        name: str | None = None,
        normalized: bool = True,
        encoding: Encoding | None = None,
        generation_config: GenerationConfig | None = None,
        tokens_per_batch: int = 16384,
        progress: bool = False,
        **load: Any,
    ):
        self._is_passed_in = not isinstance(model, str | Path)
        self.model: Any = _passed_in(model, load) if self._is_passed_in else _loaded(str(model), load)
        place = str(self.model.config._name_or_path or "") if self._is_passed_in else str(model)
        self.tokenizer = tokenizer or load_tokenizer(_named(place))
        self._readable = [self.tokenizer]
        self.name = name or Path(place).name or type(self.model).__name__
        self.normalized, self.encoding = normalized, encoding or Encoding()
        self.encoder = Encoder(
            self.tokenizer, self.encoding, generation_config or _generation_config(self.model, place), allow_empty=True
        )
        self.tokens_per_batch, self.progress = tokens_per_batch, progress

    def to(self, device: torch.device) -> None:
        """Move a reward model that was handed in, unless whoever loaded it has placed it."""
        if self._is_passed_in and not is_quantized(self.model) and not hasattr(self.model, "hf_device_map"):
            self.model.to(device)

    @property
    def fingerprint(self) -> str:
        """A hash of all that a score depends on: weights, settings, tokenizer, template, stop token, encoding."""
        return self._compute_fingerprint() if self._is_passed_in else self._fingerprint_once

    @cached_property
    def _fingerprint_once(self) -> str:
        return self._compute_fingerprint()

    def _compute_fingerprint(self) -> str:
        whole = FrozenModel(self.model)
        weights = {key: tensor for key, tensor in whole.weights(self.model).items() if LM_HEAD not in key}
        settings = [whole.settings(self.model), self.normalized, vars(self.encoding), self.encoder.renderer.stop]
        return fingerprint(weights, self.tokenizer, (), settings)

    def score(
        self, prompts: Sequence[Messages], responses: Sequence[str], finished: Sequence[bool] | None = None
    ) -> list[float]:
        """One score per row, whatever batch it is in: see `Scorer.score`."""
        ended = all_finished(prompts, responses, finished)
        rows = self._by_all(lambda: self._encoded(prompts, responses, ended) if len(responses) else [])
        return checked(self.name, self._scores(rows), prompts, responses)

    def score_ids(
        self, prompt_ids: Sequence[list[int]], response_ids: Sequence[list[int]], tokenizer: PreTrainedTokenizerBase
    ) -> list[float]:
        """Scores of ids that `tokenizer` made, such as a policy's samples, without their way through text.

        Raises:
            ValueError: this scorer has another tokenizer or chat template, to which these ids mean something else.
        """
        if not self.reads(tokenizer):
            raise ValueError(f"the ids are of another tokenizer or chat template than {self.name!r} has: score texts")
        if len(prompt_ids) != len(response_ids) or not all(map(len, prompt_ids)):
            raise ValueError(f"{len(prompt_ids)} prompts, none of them empty, need as many responses")
        return self._scores([_never_empty(*row) for row in zip(prompt_ids, response_ids, strict=True)])

    def reads(self, tokenizer: PreTrainedTokenizerBase) -> bool:
        """Whether this tokenizer's ids mean to the reward model what they mean to the tokenizer's own."""
        if any(tokenizer is readable for readable in self._readable):  # a vocabulary takes a second to compare
            return True
        if fingerprint({}, tokenizer, ()) != fingerprint({}, self.tokenizer, ()):
            return False
        self._readable.append(tokenizer)
        return True

    def _encoded(self, prompts: Sequence[Messages], responses: Sequence[str], finished: Sequence[bool]) -> list[Ids]:
        """Each response is a row of its own: a longer one beside it would, when truncated, leave it less prompt."""
        turns = [[dict(turn) for turn in prompt] for prompt in prompts]
        batch: dict[str, list[Any]] = {
            "prompt": turns,
            "response": list(responses),
            "finished": [[bool(ended)] for ended in finished],
        }
        rows = self.encoder(batch, list(range(len(turns))))
        if cut := sum(rows["_prompt_cut"]) + sum(rows["_responses_cut"]):
            limit = self.encoding.max_length
            logger.warning("%s: %d prompts or responses cut to max_length %s before scoring", self.name, cut, limit)
        if unread := sum(rows["_inputs_unread"]):
            logger.warning("%s, %d of %d rows: %s", self.name, unread, len(turns), UNREAD)
        return [
            _never_empty(prompt, ids[0]) for prompt, ids in zip(rows["prompt_ids"], rows["response_ids"], strict=True)
        ]

    def _scores(self, rows: list[Ids]) -> list[float]:
        self._by_all(lambda: self._check_lengths([len(prompt) + len(response) for prompt, response in rows]))
        scores_of_rows = [0.0] * len(rows)
        bar = tqdm(total=len(rows), desc=f"scoring by {self.name}", disable=not self.progress)
        if is_gathered(self.model):
            self._try()
        with torch.no_grad(), scope("scoring"), evaluating(self.model), bar, in_step(self.model):
            for groups in _batches(rows, self.tokens_per_batch):
                batch = collate(
                    [{"prompt_ids": rows[g[0]][0], "response_ids": [rows[i][1] for i in g]} for g in groups]
                )
                batch = Batch({name: column.to(self.model.device) for name, column in batch.items()})
                scores = forward(self.model, batch, SCORES).required("scores")
                scores = normalize(self.model, scores) if self.normalized else scores
                for group, values in zip(groups, scores.tolist(), strict=True):
                    for number, value in zip(group, values, strict=False):  # a smaller group ends in absent responses
                        scores_of_rows[number] = value
                bar.update(sum(map(len, groups)))
        return scores_of_rows

    def _by_all(self, make: Callable[[], T]) -> T:
        """What `make` returns; where processes share the model's weights, once it has returned in all of them."""
        return or_all_stop(make) if is_gathered(self.model) else make()

    def _check_lengths(self, lengths: list[int]) -> None:
        """Raise ValueError for rows that the model cannot read, or that it would run by themselves."""
        check_lengths(self.model, lengths, TOO_LONG)
        limit = min((rule.limit for rule in length_rules(unwrap(self.model))), default=math.inf)
        if is_gathered(self.model) and max(lengths, default=0) > limit:
            raise ValueError(
                f"{self.name}: a text has {max(lengths):,} tokens, and beyond {limit:,} this model's rotary "
                "frequencies depend on the length of each text, by which processes that share its weights would run it "
                f"unequally often: pass RewardModelScorer(..., encoding=Encoding(max_length={limit}))"
            )

    def _try(self) -> None:
        """Run a model whose weights processes share once in each of them: its first run tries how it can be run."""
        batch = collate([{"prompt_ids": [0], "response_ids": [[0]]}])
        with torch.no_grad(), evaluating(self.model):
            forward(self.model, Batch({name: column.to(self.model.device) for name, column in batch.items()}), SCORES)


def _batches(rows: list[Ids], budget: int) -> Iterator[list[list[int]]]:
    """Row numbers in batches of groups that share a prompt, the longest first: memory runs out at once or never.

    Tokens are counted as if each response brought its prompt, as it does for a model that cannot run packed.
    """
    by_prompt: dict[tuple[int, ...], list[int]] = {}
    for number, (prompt, _) in enumerate(rows):
        by_prompt.setdefault(tuple(prompt), []).append(number)
    tokens = torch.tensor([len(prompt) + len(response) for prompt, response in rows])
    groups = [part for numbers in by_prompt.values() for part in split_by_tokens(numbers, tokens, budget)]
    groups.sort(key=lambda group: (-max(int(tokens[i]) for i in group), group))
    costs = torch.tensor([int(tokens[group].sum()) for group in groups])
    for batch in split_by_tokens(range(len(groups)), costs, budget):
        yield [groups[number] for number in batch]


def _never_empty(prompt: list[int], response: list[int]) -> Ids:
    """The row as it is; a response that was cut off before it said anything is scored at the prompt's last token."""
    return (prompt, response) if response else (prompt[:-1], prompt[-1:])


def _loaded(source: str, load: dict[str, Any]) -> Any:
    scorer = load_scorer(source, **load)
    _check(scorer, source)
    kinds = scorer.config.architectures or []
    if not isinstance(scorer, PeftModel) and not any("SequenceClassification" in kind for kind in kinds):
        raise ValueError(
            f"{source} has no reward head, only {', '.join(kinds) or 'a policy'}: train a reward model first"
        )
    movable = torch.cuda.is_available() and not is_quantized(scorer) and "device_map" not in load
    return freeze(scorer.to("cuda") if movable else scorer)


def _passed_in(model: Any, load: dict[str, Any]) -> Any:
    inner = extract_model_from_parallel(model, keep_fp32_wrapper=False)
    if load:
        raise ValueError(f"{', '.join(load)} is for loading a model by name, but {type(model).__name__} is already one")
    _check(inner, type(inner).__name__)
    return inner


def _check(model: Any, source: str) -> None:
    inner: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    if not is_scorer(inner):
        raise ValueError(f"{source} has no reward head: train a reward model first, or pass a function")
    check_scorer(inner, source)


def _named(place: str) -> str:
    if not place:
        raise ValueError(
            "this reward model has no name to load a tokenizer from: pass RewardModelScorer(model, tokenizer)"
        )
    return place


def _generation_config(model: Any, place: str) -> GenerationConfig | None:
    """What sampling from the policy under this reward model may stop on, where the model or its folder says so."""
    own = getattr(model, "generation_config", None)
    if own is not None or not place or not (Path(place) / "generation_config.json").is_file():
        return own
    return GenerationConfig.from_pretrained(place)
