"""What prefopt overrides of transformers' Trainer is what the installed Trainer still calls, by name and signature.

Many of these methods are private, so a release of transformers may rename one, give it another argument or stop calling
it, and an override that nobody calls does nothing. An upgrade fails here first. Then read what has changed in
transformers' `trainer.py`, change the override, and only then the table.
"""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import transformers
from transformers import Trainer

from prefopt import PreferenceTrainer
from prefopt.training import trainers as _named  # noqa: F401  (so that all subclasses are there)

TRAINER: dict[str, str] = {
    "__init__": (
        "(self, model=None, args=None, data_collator=None, train_dataset=None, eval_dataset=None, "
        "processing_class=None, model_init=None, compute_loss_func=None, compute_metrics=None, callbacks=None, "
        "optimizers=(None, None), optimizer_cls_and_kwargs=None, preprocess_logits_for_metrics=None)"
    ),
    "_clip_grad_norm": "(self, model)",
    "_finalize_training": "(self, trial, num_train_samples, start_time)",
    "_get_grad_norm": "(self, model, grad_norm=None)",
    "_get_output_dir": "(self, trial)",
    "_init_training_state": (
        "(self, max_steps, num_update_steps_per_epoch, num_train_epochs, resume_from_checkpoint, trial)"
    ),
    "_issue_warnings_after_load": "(self, load_result)",
    "_load_best_model": "(self)",
    "_load_optimizer_and_scheduler": "(self, checkpoint)",
    "_load_rng_state": "(self, checkpoint)",
    "_load_from_checkpoint": "(self, resume_from_checkpoint, model=None)",
    "_maybe_log_save_evaluate": (
        "(self, tr_loss, grad_norm, model, trial, epoch, ignore_keys_for_eval, start_time, learning_rate=None)"
    ),
    "_save": "(self, output_dir=None, state_dict=None)",
    "_save_checkpoint": "(self, model, trial)",
    "_save_optimizer_and_scheduler": "(self, output_dir)",
    "compute_loss": "(self, model, inputs, return_outputs=False, num_items_in_batch=None)",
    "create_model_card": (
        "(self, language=None, license=None, tags=None, model_name=None, finetuned_from=None, tasks=None, "
        "dataset_tags=None, dataset=None, dataset_args=None)"
    ),
    "create_optimizer": "(self, model=None)",
    "create_scheduler": "(self, num_training_steps, optimizer=None)",
    "evaluate": "(self, eval_dataset=None, ignore_keys=None, metric_key_prefix='eval')",
    "evaluation_loop": (
        "(self, dataloader, description, prediction_loss_only=None, ignore_keys=None, metric_key_prefix='eval')"
    ),
    "floating_point_ops": "(self, inputs)",
    "get_batch_samples": "(self, epoch_iterator, num_batches, device)",
    "get_eval_dataloader": "(self, eval_dataset=None)",
    "get_test_dataloader": "(self, test_dataset)",
    "get_total_train_batch_size": "(self, args)",
    "get_train_dataloader": "(self)",
    "log": "(self, logs, start_time=None)",
    "predict": "(self, test_dataset, ignore_keys=None, metric_key_prefix='test')",
    "save_model": "(self, output_dir=None, _internal_call=False)",
    "save_metrics": "(self, split, metrics, combined=True)",
    "save_state": "(self)",
    "train": "(self, resume_from_checkpoint=None, trial=None, ignore_keys_for_eval=None)",
    "training_step": "(self, model, inputs, num_items_in_batch=None)",
}
"""Method of transformers' Trainer that prefopt overrides -> its signature there."""

FOREIGN = [cls for cls in Trainer.__mro__ if cls is not object]


def ours() -> list[type]:
    """Every class of prefopt that a trainer consists of: those of PreferenceTrainer and of what is derived from it."""
    derived, classes = [PreferenceTrainer], {}
    for cls in derived:
        derived += cls.__subclasses__()
        classes |= dict.fromkeys(base for base in cls.__mro__ if base.__module__.split(".")[0] == "prefopt")
    return list(classes)


def overridden() -> dict[str, list[str]]:
    """Name -> where prefopt overrides it; `__init__` too, but none of the names that Python gives to every class."""
    found: dict[str, list[str]] = {}
    for cls in ours():
        for name in vars(cls):
            if name == "__init__" or (not name.startswith("__") and any(name in vars(base) for base in FOREIGN)):
                found.setdefault(name, []).append(f"{cls.__module__}.{cls.__qualname__}")
    return found


def signature(owner: Any, name: str) -> str | None:
    """Of a method, without the types, which Python and torch spell in their own ways from version to version.

    Of anything else, such as a property, its kind; None if there is nothing of that name.
    """
    value = inspect.getattr_static(owner, name, None)
    if value is None:
        return None
    if isinstance(value, staticmethod | classmethod):
        value = value.__func__
    if not callable(value):
        return type(value).__name__
    bare = [each.replace(annotation=each.empty) for each in inspect.signature(value).parameters.values()]
    return str(inspect.Signature(bare))


@pytest.mark.parametrize("name", TRAINER)
def test_the_installed_trainer_has_what_prefopt_overrides(name: str) -> None:
    found, expected = signature(Trainer, name), TRAINER[name]
    there = " and ".join(overridden().get(name, ["nowhere"]))
    now = "is gone" if found is None else f"is now\n    {name}{found}\n"
    assert found == expected, (
        f"transformers {transformers.__version__}: Trainer.{name}, which was\n    {name}{expected}\n{now}; "
        f"prefopt overrides it in {there}: look what calls it now, change the override, and then the table here"
    )


def test_the_table_names_every_override_and_no_other() -> None:
    found = overridden()
    new = {name: f"{signature(Trainer, name)}, overridden in {found[name]}" for name in sorted(found.keys() - TRAINER)}
    assert not new, f"add to the table: {new}"
    assert not TRAINER.keys() - found.keys(), "prefopt overrides these no longer: take them out of the table"


def test_an_override_takes_what_the_trainer_passes() -> None:
    """Each argument of the Trainer's own method, by place and by name."""
    for cls in ours():
        for name in vars(cls).keys() & TRAINER.keys() - {"__init__"}:
            own = inspect.signature(vars(cls)[name]).parameters
            kinds = {parameter.kind for parameter in own.values()}
            anything = {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD} <= kinds
            missing = [each for each in inspect.signature(getattr(Trainer, name)).parameters if each not in own]
            assert anything or not missing, f"{cls.__qualname__}.{name} does not take {missing} as Trainer's does"
