"""The weights of a saved model under the names that the model has for them, where its files call them otherwise.

Mixtures of experts are the greatest kind: their files have a matrix for each expert, the model has one tensor of all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple, cast

from safetensors import safe_open
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    PrefixChange,
    WeightConverter,
    WeightRenaming,
    WeightTransform,
    dot_natural_key,
    rename_source_key,
)


class Part(NamedTuple):
    """One tensor in a file, of which a weight is made."""

    file: Path
    name: str
    pattern: str | None

    def read(self) -> Tensor:
        with safe_open(self.file, framework="pt") as file:
            return file.get_tensor(self.name)


def conversions_of(model: nn.Module) -> list[WeightTransform]:
    """What `save_pretrained` does backwards when it writes this model: empty where files call weights as it does.

    The same list as `transformers.core_model_loading.revert_weight_conversion` takes.
    """
    if not isinstance(model, PreTrainedModel):
        return []
    loaded_by = getattr(model, "_weight_conversions", None)
    if loaded_by is not None:
        return list(loaded_by)
    return [
        each for each in get_model_conversion_mapping(model, add_legacy=False) if not isinstance(each, PrefixChange)
    ]


def weights_in(files: Iterable[Path], model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Read the weights that `save_pretrained` wrote of this model: one at a time, under the model's own names.

    Args:
        files: safetensors files, which together hold the model.

    Yields:
        name, weight on the CPU. What is not the model's comes under the name that it has in its file.

    Raises:
        ValueError: a weight is made of several tensors, and not all of them are there.
    """
    conversions = conversions_of(model)
    converters = [each for each in conversions if isinstance(each, WeightConverter)]
    by_pattern = {pattern: each for each in converters for pattern in each.source_patterns}
    for name, parts in _parts(files, conversions, converters).items():
        pattern = parts[0].pattern
        if pattern is None:
            yield from ((name, part.read()) for part in parts)
            continue
        converter = deepcopy(by_pattern[pattern])
        for part in parts:
            converter.add_tensor(name, part.name, cast(str, part.pattern), cast(Any, part.read()))
        try:
            made = converter.convert(name, model=model, config=getattr(model, "config", None))
        except (RuntimeError, ValueError) as error:
            raise ValueError(
                f"{name} cannot be made of {', '.join(part.name for part in parts)} in {parts[0].file.parent}: a part "
                f"is missing, or another model's ({error})"
            ) from error
        yield from ((own, value[0] if isinstance(value, list) else value) for own, value in made.items())


def _parts(
    files: Iterable[Path], conversions: list[WeightTransform], converters: list[WeightConverter]
) -> dict[str, list[Part]]:
    """Which tensors of the files each weight is made of, in the order of their numbers."""
    renamings = [each for each in conversions if isinstance(each, WeightRenaming)]
    found: list[tuple[str, Path]] = []
    for path in files:
        with safe_open(path, framework="pt") as file:
            found += [(name, path) for name in file.keys()]  # noqa: SIM118
    parts: dict[str, list[Part]] = {}
    for name, path in sorted(found, key=lambda each: dot_natural_key(each[0])):
        own, pattern = rename_source_key(name, renamings, converters)
        parts.setdefault(own, []).append(Part(path, name, pattern))
    return parts
