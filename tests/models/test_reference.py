"""The frozen policy stays what was handed in, leaves the policy as it was, and is known again by its fingerprint."""

from __future__ import annotations

import copy
import errno
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM, LoraConfig, PeftModel, get_peft_model
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from prefopt import DPOConfig, DPOTrainer
from prefopt.batch import Batch
from prefopt.data.collate import collate
from prefopt.models import peft_adapters
from prefopt.models import reference as room
from prefopt.models.forward import forward
from prefopt.models.load import load_policy
from prefopt.models.modes import disable_dropout, evaluating, without_dropout
from prefopt.models.reference import (
    REFERENCE_ADAPTER,
    AdapterCopy,
    AdapterOff,
    FrozenModel,
    Reference,
    cache_path,
    fingerprint,
    read_cache,
    reference_for,
    write_cache,
)
from tests.helpers.by_hand import assert_near
from tests.helpers.models import FAMILIES, tiny, tiny_llama
from tests.helpers.rows import ragged, ragged_pairs
from tests.helpers.training import quiet

ROWS = ragged_pairs(8)
LOGPS = frozenset({"logps"})
SETTINGS: dict[str, dict[str, Any]] = {
    "lora": {},
    "dora": {"use_dora": True},
    "head": {"target_modules": ["q_proj", "lm_head"]},
    "embeddings": {"target_modules": ["q_proj", "embed_tokens"]},
    "in full": {"modules_to_save": ["embed_tokens", "lm_head"]},
    "biases": {"bias": "all"},
    "tokens": {"trainable_token_indices": [5, 6, 7, 8, 9]},
    "tied head": {"target_modules": ["q_proj", "lm_head"]},
    "tied alike": {"target_modules": ["q_proj", "embed_tokens"], "ensure_weight_tying": True},
    "tied in full": {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    "tied tokens": {"trainable_token_indices": [5, 6, 7, 8, 9]},
    "tied, and biases": {"target_modules": ["q_proj", "embed_tokens"], "ensure_weight_tying": True, "bias": "all"},
}


def batch() -> Batch:
    return collate(list(ROWS))


def adapted(kind: str = "lora", *, trained: bool = False) -> PeftModel:
    base = tiny_llama(attention_bias="biases" in kind, tie_word_embeddings="tied" in kind)
    model = get_peft_model(
        base, LoraConfig(**{"r": 4, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"} | SETTINGS[kind])
    )
    if trained:
        disturb(model)
    return model


def disturb(model: nn.Module) -> None:
    """What training would do: every weight that trains moves."""
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)


def logps(model: nn.Module) -> Tensor:
    with torch.no_grad(), evaluating(model):
        return forward(model, batch(), LOGPS).logps


def flags(model: nn.Module) -> dict[str, bool]:
    return {name: p.requires_grad for name, p in model.named_parameters() if REFERENCE_ADAPTER not in name}


def assert_frozen(model: nn.Module, reference: Reference, start: Tensor) -> None:
    """The reference says what the model said at the start, before and after training, and changes nothing by it."""
    before = flags(model)
    first = reference(model, batch(), LOGPS).logps
    assert_near(first, start, 5e-7)  # a copy of an adapter that views another weight lies otherwise in memory
    disturb(model)
    moved = logps(model)
    assert (moved - start).abs().max() > 1e-3
    again = reference(model, batch(), LOGPS).logps
    assert torch.equal(again, first) and not again.requires_grad
    assert torch.equal(logps(model), moved)
    assert flags(model) == before and any(before.values())


@pytest.mark.parametrize("kind", SETTINGS)
@pytest.mark.parametrize("trained", [False, True])
def test_an_adapters_reference_stays_where_it_was(kind: str, trained: bool) -> None:
    model = adapted(kind, trained=trained)
    start = logps(model)
    reference = reference_for(model, None, fresh_adapter=not trained)
    expected = FrozenModel if "biases" in kind else AdapterCopy if trained else AdapterOff
    assert isinstance(reference, expected)
    assert_frozen(model, reference, start)


def test_a_copy_that_leaves_weights_out_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """As PEFT's own second adapter does, which has nothing on a tied head."""
    model = adapted("tied alike", trained=True)
    monkeypatch.setattr(peft_adapters, "untied_config", lambda model, name: model.peft_config[name])
    with pytest.raises(ValueError, match=r"no place for base_model\.model\.lm_head\.lora_A\.weight.*merge_adapter"):
        reference_for(model, None, fresh_adapter=False)


def test_a_plain_models_reference_stays_where_it_was() -> None:
    model = tiny_llama()
    reference = reference_for(model, None, fresh_adapter=False)
    assert isinstance(reference, FrozenModel) and not any(p.requires_grad for p in reference.model.parameters())
    assert_frozen(model, reference, logps(model))


def test_a_given_reference_is_used_and_frozen() -> None:
    model, other = tiny_llama(), tiny_llama(seed=4).train()
    reference = reference_for(model, other, fresh_adapter=False)
    assert torch.equal(reference(model, batch(), LOGPS).logps, logps(other))
    assert not other.training and not any(p.requires_grad for p in other.parameters())


def test_weights_that_did_not_train_do_not_start_to() -> None:
    """PEFT's add_adapter and set_adapter turn gradients on; a layer that the user froze stays frozen."""
    model = adapted(trained=True)
    frozen = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight"
    model.get_parameter(frozen).requires_grad_(False)
    before = flags(model)
    reference = reference_for(model, None, fresh_adapter=False)
    reference(model, batch(), LOGPS)
    assert flags(model) == before and not before[frozen]
    copies = [p for name, p in model.named_parameters() if REFERENCE_ADAPTER in name]
    assert copies and not any(p.requires_grad for p in copies)


def test_the_policys_adapter_is_active_again_after_an_error() -> None:
    model = adapted(trained=True)
    reference, before = reference_for(model, None, fresh_adapter=False), flags(model)
    broken = batch()
    broken["response_ids"] = broken.response_ids + 10_000
    with pytest.raises(IndexError):
        reference(model, broken, LOGPS)
    assert model.active_adapter == "default" and flags(model) == before


def test_a_second_copy_replaces_the_first() -> None:
    model = adapted(trained=True)
    for _ in range(2):
        disturb(model)
        assert_frozen(model, reference_for(model, None, fresh_adapter=False), logps(model))
    assert set(model.peft_config) == {"default", REFERENCE_ADAPTER}


def test_a_frozen_model_has_no_dropout_and_an_adapters_reference_none() -> None:
    model = get_peft_model(
        tiny_llama(attention_dropout=0.5), LoraConfig(r=4, lora_dropout=0.5, target_modules=["q_proj"])
    )
    disturb(model)
    start = logps(model)
    reference = reference_for(model, None, fresh_adapter=False)
    model.train()
    assert torch.equal(reference(model, batch(), LOGPS).logps, start)
    assert not torch.equal(forward(model, batch(), LOGPS).logps, start)  # the policy's own dropout is back


@pytest.mark.parametrize("kind", ["lora", "in full"])
def test_the_copied_adapter_is_not_saved(kind: str, tmp_path: Path, tokenizer: Any) -> None:
    base = tiny_llama()
    base.save_pretrained(tmp_path / "base")
    model = get_peft_model(
        load_policy(str(tmp_path / "base")),
        LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM", **SETTINGS[kind]),
    )
    disturb(model)
    steps = {"max_steps": 2, "learning_rate": 1e-2, "save_strategy": "steps", "save_steps": 1}
    args = DPOConfig(**quiet(tmp_path, **steps))
    trainer = DPOTrainer(model, args=args, train_dataset=ROWS, processing_class=tokenizer)
    assert isinstance(trainer.reference, AdapterCopy)
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    for folder in (tmp_path / "saved", tmp_path / "run" / "checkpoint-2"):
        assert not list(folder.rglob(f"*{REFERENCE_ADAPTER}*"))
        with safe_open(folder / "adapter_model.safetensors", framework="pt") as weights:
            names = set(weights.keys())
        assert any("lora_A" in name for name in names) and not any(REFERENCE_ADAPTER in name for name in names)
        assert len(names) == sum(flags(trainer.model).values())
        again = AutoPeftModelForCausalLM.from_pretrained(folder)
        assert set(again.peft_config) == {"default"}
        assert torch.equal(logps(again), logps(trainer.model))
    assert REFERENCE_ADAPTER in trainer.model.peft_config
    assert math.isfinite(trainer.evaluate(ROWS)["eval_loss"])


# ---- TR-DPO --------------------------------------------------------------------------------------------------------


def test_blending_is_weight_by_weight() -> None:
    model, other = tiny_llama(), tiny_llama(seed=4)
    expected = {n: 0.3 * dict(model.named_parameters())[n] + 0.7 * p.clone() for n, p in other.named_parameters()}
    FrozenModel(other).blend(model, 0.3)
    for name, parameter in other.named_parameters():
        torch.testing.assert_close(parameter, expected[name])


@pytest.mark.parametrize("other", ["an adapter", "another size"])
def test_a_reference_that_cannot_be_blended_is_an_error_at_once(other: str, tmp_path: Path, tokenizer: Any) -> None:
    """An adapter and a given ref_model have no weights in common, which must not show at step 512."""
    model = adapted() if other == "an adapter" else tiny_llama(intermediate_size=96)
    args = DPOConfig(**quiet(tmp_path, sync_ref_model=True))
    with pytest.raises(ValueError, match="sync_ref_model blends weight by weight"):
        DPOTrainer(model, tiny_llama(), args, train_dataset=ROWS, processing_class=tokenizer)


# ---- fingerprint and cache -----------------------------------------------------------------------------------------


def key(model: nn.Module, tokenizer: Any, rows: Any = ROWS) -> str:
    reference = reference_for(model, None, fresh_adapter=True)
    return fingerprint(reference.weights(model), tokenizer, rows, reference.settings(model))


def test_the_fingerprint_changes_with_all_that_matters(tokenizer: Any) -> None:
    template, vocabulary = copy.deepcopy(tokenizer), copy.deepcopy(tokenizer)
    template.chat_template += " "
    vocabulary.add_tokens(["entirely new"])
    weight, rope, adapter = tiny_llama(), tiny_llama(), adapted(trained=True)
    with torch.no_grad():
        weight.lm_head.weight[3, 3] += 1e-6
    rope.config.rope_parameters["rope_theta"] = 5e5
    token = ROWS.map(lambda row: {"response_ids": [[*ids[:-1], 7] for ids in row["response_ids"]]})
    swapped = ROWS.map(lambda row: {"response_ids": row["response_ids"][::-1]})
    keys = [
        key(tiny_llama(), tokenizer),
        key(weight, tokenizer),
        key(rope, tokenizer),
        key(adapter, tokenizer),
        key(tiny_llama(dtype=torch.float64), tokenizer),
        key(tiny_llama(), template),
        key(tiny_llama(), vocabulary),
        key(tiny_llama(), tokenizer, token),
        key(tiny_llama(), tokenizer, swapped),
        key(tiny_llama(), tokenizer, ROWS.select(range(7))),
    ]
    assert len(set(keys)) == len(keys)


def test_the_fingerprint_changes_with_nothing_else(tmp_path: Path, tokenizer: Any) -> None:
    first = key(tiny_llama(), tokenizer)
    used = copy.deepcopy(tokenizer)
    used(["a", "a b"], padding=True, truncation=True, max_length=5)
    used.padding_side = "right"
    tiny_llama().save_pretrained(tmp_path)
    loaded = load_policy(str(tmp_path))
    loaded.train()
    assert key(tiny_llama(), used) == key(loaded, tokenizer) == first
    assert key(tiny_llama(), tokenizer, ROWS.add_column("margin", [1.0] * len(ROWS))) == first


def test_a_continued_adapter_is_told_from_another(tokenizer: Any) -> None:
    """The copy counts, with its scale, which no weight shows; what trains later does not."""

    def copied(model: PeftModel) -> str:
        reference = reference_for(model, None, fresh_adapter=False)
        before = fingerprint(reference.weights(model), tokenizer, ROWS, reference.settings(model))
        disturb(model)
        assert fingerprint(reference.weights(model), tokenizer, ROWS, reference.settings(model)) == before
        return before

    scaled, other = adapted(trained=True), adapted(trained=True)
    scaled.peft_config["default"].lora_alpha = 64
    disturb(other)
    keys = [copied(model) for model in (adapted(trained=True), scaled, other)]
    assert len(set(keys)) == 3 and copied(adapted(trained=True)) == keys[0]


def test_the_fingerprint_is_the_same_in_every_process(monkeypatch: pytest.MonkeyPatch, tokenizer: Any) -> None:
    """The order of a set differs from process to process, and a peft_config keeps its target modules in one."""
    one, two = adapted(trained=True), adapted(trained=True)
    names = ["v_proj", "q_proj", "k_proj", "o_proj"]
    one.peft_config["default"].target_modules = set(names)
    two.peft_config["default"].target_modules = frozenset(reversed(names))
    reference = AdapterCopy()
    keys = {fingerprint({}, tokenizer, [], reference.settings(model)) for model in (one, two)}
    assert len(keys) == 1


def test_precision_of_the_pass_counts(tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Log-probs computed under bfloat16 autocast are not those of a float32 run."""
    monkeypatch.setenv("PREFOPT_CACHE", str(tmp_path))
    for bf16 in (False, True, False):
        args = DPOConfig(**quiet(tmp_path, precompute_ref_log_probs=True, bf16=bf16))
        DPOTrainer(tiny_llama(), args=args, train_dataset=ROWS, processing_class=tokenizer)
    assert len(list((tmp_path / "ref_logps").iterdir())) == 2


def test_a_cache_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFOPT_CACHE", str(tmp_path))
    path = cache_path("abc")

    def disk_full(tensors: Any, file: Path, *_: Any) -> None:
        Path(file).write_bytes(b"half")
        raise OSError("No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(room, "save_file", disk_full)
        write_cache(path, torch.arange(3.0))
    assert not list(path.parent.iterdir())
    write_cache(path, torch.arange(3.0))
    assert [p.name for p in path.parent.iterdir()] == ["abc.safetensors"]
    assert torch.equal(read_cache(path), torch.arange(3.0))


def test_a_cache_that_cannot_be_written_names_its_file_and_the_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As safetensors says it: the number of the error alone."""

    def full(*args: Any) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(room, "save_file", full)
    path = tmp_path / "ref_logps" / "abc.safetensors"
    with pytest.raises(OSError, match=r"are free.*abc\.safetensors") as error:
        write_cache(path, torch.arange(3.0))
    assert error.value.errno == errno.ENOSPC and not path.exists()


def test_a_run_goes_on_without_its_cache(
    tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cache").write_text("in the way")
    monkeypatch.setenv("PREFOPT_CACHE", str(tmp_path / "cache"))
    args = DPOConfig(**quiet(tmp_path, precompute_ref_log_probs=True))
    trainer = DPOTrainer(tiny_llama(), args=args, train_dataset=ROWS, processing_class=tokenizer)
    assert "ref_logps" in trainer.train_dataset.column_names and "are in memory" in caplog.text


# ---- modes ---------------------------------------------------------------------------------------------------------


def test_modes_are_restored_module_by_module() -> None:
    model = tiny_llama().train()
    model.model.layers[1].eval()
    before = {name: module.training for name, module in model.named_modules()}
    with pytest.raises(KeyError), evaluating(model):
        assert not any(module.training for module in model.modules())
        raise KeyError
    assert {name: module.training for name, module in model.named_modules()} == before
    assert len(set(before.values())) == 2


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "phi", "gpt_neox", "bloom"])
def test_no_dropout_makes_training_mode_deterministic(family: str) -> None:
    rates = {
        "attention_dropout": 0.4, "hidden_dropout": 0.4, "dropout": 0.4, "layerdrop": 0.6,
        "resid_pdrop": 0.4, "embd_pdrop": 0.4, "attn_pdrop": 0.4,
    }  # fmt: skip
    assert family in FAMILIES
    model = tiny(family, torch.float32, **rates)

    def run() -> Tensor:
        with torch.no_grad():
            return forward(model, ragged(k=2), LOGPS).logps

    plain = run()
    model.train()

    def varies() -> bool:
        return any(not torch.equal(run(), plain) for _ in range(4))

    assert varies()
    with without_dropout(model):
        assert not varies()
    assert varies()
    disable_dropout(model)
    assert not varies()
