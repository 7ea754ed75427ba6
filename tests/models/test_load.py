"""What loading gives: dtype, adapters that go on training, quantised layers that stay differentiable, clear errors."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from peft import AutoPeftModelForCausalLM, LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedTokenizerFast,
)

from prefopt import DPOConfig, DPOTrainer
from prefopt.data.collate import collate
from prefopt.models.forward import forward
from prefopt.models.heads import reward_head_of, scorer_from_policy, separate_pad
from prefopt.models.load import (
    add_adapter,
    load_policy,
    load_scorer,
    load_tokenizer,
)
from prefopt.models.modes import keep_differentiable, make_trainable
from tests.helpers.by_hand import assert_near
from tests.helpers.models import tiny, tiny_llama
from tests.helpers.rows import ragged_pairs
from tests.helpers.training import quiet

ROWS = ragged_pairs(8)
LORA = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")


@pytest.fixture
def folder(tmp_path: Path, tokenizer: Any) -> str:
    tiny_llama(dtype=torch.bfloat16).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


@pytest.mark.parametrize("load", [load_policy, load_scorer])
def test_dtype(load: Any, folder: str) -> None:
    """float32 whatever the checkpoint holds, unless another is named."""
    assert load(folder).dtype == torch.float32
    assert load(folder, dtype="bfloat16").dtype == torch.bfloat16
    assert load(folder, dtype=torch.float16).dtype == torch.float16
    assert load(folder, dtype="auto").dtype == torch.bfloat16


@pytest.mark.parametrize("name", ["float23", "Tensor", "nn"])
def test_a_wrong_dtype_is_an_error(name: str, folder: str) -> None:
    with pytest.raises(ValueError, match=f"'{name}' is not a torch dtype: use float32"):
        load_policy(folder, dtype=name)


def test_a_ready_model_is_returned_as_it_is(folder: str) -> None:
    model = tiny_llama()
    assert load_policy(model) is model
    with pytest.raises(ValueError, match="dtype, quantization_config is for loading a model by name"):
        load_policy(model, dtype="bfloat16", quantization_config=BitsAndBytesConfig(load_in_4bit=True))


@pytest.mark.parametrize(
    ("auto", "load"), [(AutoModelForCausalLM, load_policy), (AutoModelForSequenceClassification, load_scorer)]
)
def test_no_code_of_strangers_unless_asked(auto: Any, load: Any, folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, Any]] = []
    real = auto.from_pretrained

    def spy(source: str, **kwargs: Any) -> Any:
        seen.append(kwargs)
        return real(source, **kwargs)

    monkeypatch.setattr(auto, "from_pretrained", spy)
    load(folder)
    load(folder, trust_remote_code=True)
    assert [(k["trust_remote_code"], k["use_safetensors"]) for k in seen] == [(False, True), (True, True)]


def test_a_tokenizer_runs_no_code_of_strangers_either(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real, seen = AutoTokenizer.from_pretrained, []
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", lambda *a, **k: seen.append(k) or real(*a, **k))
    load_tokenizer(folder)
    assert seen == [{"trust_remote_code": False}]


def test_a_tokenizer_without_pad_pads_with_eos(tmp_path: Path, tokenizer: Any) -> None:
    own = copy.deepcopy(tokenizer)
    own.pad_token = None
    own.save_pretrained(tmp_path)
    assert load_tokenizer(str(tmp_path)).pad_token == tokenizer.eos_token


def test_an_adapter_folder_goes_on_training(folder: str, tmp_path: Path) -> None:
    model = get_peft_model(load_policy(folder), LORA)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.1)
    model.save_pretrained(tmp_path / "adapter")
    again = load_policy(str(tmp_path / "adapter"))
    assert isinstance(again, PeftModel) and again.dtype == torch.float32
    trainable = {name for name, p in again.named_parameters() if p.requires_grad}
    assert trainable == {name for name, _ in model.named_parameters() if "lora_" in name}
    batch, wants = collate(list(ROWS)), frozenset({"logps"})
    assert torch.equal(forward(again.eval(), batch, wants).logps, forward(model.eval(), batch, wants).logps)


ALIKE = LoraConfig(r=4, target_modules=["q_proj", "embed_tokens"], ensure_weight_tying=True, task_type="CAUSAL_LM")


@pytest.mark.parametrize("parts", [False, True])
def test_a_tied_adapter_is_loaded_as_it_was_saved(parts: bool, tmp_path: Path, tokenizer: Any, caplog: Any) -> None:
    """PEFT's views end with a cast to 16 bits, as with a move to a GPU: two adapters train from there."""
    dtype = torch.bfloat16 if parts else torch.float32
    tiny_llama(tie_word_embeddings=True).save_pretrained(tmp_path / "base")
    args = DPOConfig(**quiet(tmp_path, max_steps=3, learning_rate=1e-2))
    base = load_policy(str(tmp_path / "base"), dtype=dtype)
    trainer = DPOTrainer(base, args=args, train_dataset=ROWS, processing_class=tokenizer, peft_config=ALIKE)
    trainer.train()
    trainer.save_model(str(tmp_path / "adapter"))
    head: Any = trainer.model.get_submodule("base_model.model.lm_head")
    embedding = trainer.model.get_input_embeddings()
    alike = torch.equal(head.lora_A["default"].weight, embedding.lora_embedding_B["default"].t())
    assert alike == (not parts) and ("PEFT unties what it moves" in caplog.text) == parts
    plain = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter", dtype=dtype)
    batch, wants = collate(list(ROWS)), frozenset({"logps"})
    expected = forward(trainer.model.eval(), batch, wants).logps
    learnt = {name: weight for name, weight in trainer.model.named_parameters() if "lora_" in name}
    for again in (plain, load_policy(str(tmp_path / "adapter"), dtype=dtype)):
        loaded = dict(again.named_parameters())
        assert learnt and all(torch.equal(loaded[name], weight) for name, weight in learnt.items())
        # What lies otherwise in memory is added up in another order.
        assert_near(forward(again.eval(), batch, wants).logps, expected, 1e-2 if parts else 5e-7)
    assert trainer.model.peft_config["default"].ensure_weight_tying


# ---- the base of an adapter ----------------------------------------------------------------------------------------


def saved_adapter(place: Path, base: str, folder: str) -> PeftModel:
    """By PEFT alone, below the working directory: what it writes names the base as it was named here."""
    tiny_llama().save_pretrained(place / base)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LORA)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.1)
    model.save_pretrained(folder)
    return model


def weights_of(model: Any) -> dict[str, Any]:
    return dict(model.named_parameters())


@pytest.mark.parametrize("base", ["base", "模型/底座", "runs/models/base"])
def test_an_adapter_with_a_relative_base_loads_from_anywhere(
    base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    project.mkdir(), elsewhere.mkdir()
    monkeypatch.chdir(project)
    expected = weights_of(saved_adapter(project, base, "runs/适配器"))
    monkeypatch.chdir(elsewhere)
    with pytest.raises(OSError):  # PEFT looks from here, and then on the hub
        AutoPeftModelForCausalLM.from_pretrained(project / "runs" / "适配器")
    for source in (str(project / "runs" / "适配器"), "../project/runs/适配器"):
        found = load_policy(source)
        assert all(torch.equal(weights_of(found)[name], weight) for name, weight in expected.items())
        assert found.peft_config["default"].base_model_name_or_path == str(project / base)
        assert torch.equal(load_scorer(source).model.embed_tokens.weight, found.get_input_embeddings().weight)


def test_what_is_trained_here_names_its_base_by_an_absolute_path(
    tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that plain PEFT loads it from anywhere, even where no folder above the adapter holds the base."""
    work, out = tmp_path / "work", tmp_path / "out"
    work.mkdir()
    monkeypatch.chdir(work)
    tiny_llama().save_pretrained("base")
    tokenizer.save_pretrained("base")
    trainer = DPOTrainer("base", args=DPOConfig(**quiet(tmp_path)), train_dataset=ROWS, peft_config=LORA)
    trainer.save_model(str(out / "by name"))
    given = get_peft_model(AutoModelForCausalLM.from_pretrained("base"), LORA)
    carried = DPOTrainer(given, args=DPOConfig(**quiet(tmp_path)), train_dataset=ROWS, processing_class=tokenizer)
    carried.save_model(str(out / "carried"))
    monkeypatch.chdir(tmp_path)
    for name in ("by name", "carried"):
        again = AutoPeftModelForCausalLM.from_pretrained(out / name)
        assert again.peft_config["default"].base_model_name_or_path == str(work / "base")


def test_a_base_that_is_nowhere_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    saved_adapter(tmp_path, "runs/models/base", "adapter")
    (tmp_path / "runs").rename(tmp_path / "moved")
    with pytest.raises(ValueError, match="adapter is no folder.*: runs/models/base. Write its path into base_model"):
        load_policy(str(tmp_path / "adapter"))
    file = tmp_path / "adapter" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": None}))
    with pytest.raises(ValueError, match="names no base: write its path"):
        load_policy(str(tmp_path / "adapter"))


def test_an_adapter_on_an_adapter_is_an_error() -> None:
    model = get_peft_model(tiny_llama(), LORA)
    with pytest.raises(ValueError, match="already has an adapter"):
        add_adapter(model, LORA, gradient_checkpointing=False)


def test_the_users_peft_config_is_left_alone() -> None:
    config = LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM")
    model = add_adapter(scorer_from_policy(tiny_llama()), config, gradient_checkpointing=False)
    assert model.peft_config["default"].task_type == "SEQ_CLS"
    assert config.task_type == "CAUSAL_LM"


def test_a_merged_model_trains_and_a_partly_frozen_one_stays_so() -> None:
    merged = get_peft_model(tiny_llama(), LORA).merge_and_unload()
    assert not any(p.requires_grad for p in merged.parameters())
    make_trainable(merged)
    assert all(p.requires_grad for p in merged.parameters())
    merged.lm_head.requires_grad_(False)
    make_trainable(merged)
    assert not merged.lm_head.weight.requires_grad


@pytest.mark.parametrize("peft_config", [None, LORA])
def test_a_model_trained_in_bfloat16_is_as_precise_as_before(peft_config: Any, tmp_path: Path, tokenizer: Any) -> None:
    """accelerate leaves its autocast on the model: the next trainer, in float32, would compute in bfloat16."""

    def build(model: Any, peft_config: Any, **args: Any) -> DPOTrainer:
        config = DPOConfig(**quiet(tmp_path, max_steps=1, learning_rate=1e-2, **args))
        return DPOTrainer(
            model, args=config, train_dataset=ROWS, processing_class=tokenizer, peft_config=copy.deepcopy(peft_config)
        )

    first = build(tiny_llama(), peft_config, bf16=True)
    first.train()
    second = build(first.model, None)
    plain = copy.deepcopy(first.model)
    vars(plain).pop("forward", None)
    batch, wants = collate(list(ROWS)), frozenset({"logps"})
    expected = forward(plain.eval(), batch, wants).logps
    assert torch.equal(forward(second.model.eval(), batch, wants).logps, expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert not torch.equal(forward(second.model, batch, wants).logps, expected)


# ---- quantised -----------------------------------------------------------------------------------------------------


def quantised_folder(tmp_path: Path, tokenizer: Any) -> str:
    tiny_llama(hidden_size=64, intermediate_size=128).save_pretrained(tmp_path / "wide")  # 4-bit blocks hold 64 weights
    tokenizer.save_pretrained(tmp_path / "wide")
    return str(tmp_path / "wide")


def test_four_bit_stays_differentiable_after_an_evaluation(tmp_path: Path, tokenizer: Any) -> None:
    """bitsandbytes 0.50 packs weights at the first evaluation on some CPUs, and the packed kernel has no gradient."""
    args = DPOConfig(**quiet(tmp_path, max_steps=2, learning_rate=1e-2, per_device_train_batch_size=4))
    trainer = DPOTrainer(
        quantised_folder(tmp_path, tokenizer),
        args=args,
        train_dataset=ROWS,
        quantization_config=BitsAndBytesConfig(load_in_4bit=True),
        peft_config=LORA,
    )
    before = trainer.evaluate(ROWS)["eval_loss"]
    trainer.train()
    assert trainer.evaluate(ROWS)["eval_loss"] < before - 1e-3
    # The first layer's adapter has its gradient through every layer above it.
    out = forward(trainer.model.train(), collate(list(ROWS)), frozenset({"logps"}))
    trainer.model.zero_grad()
    out.logps.sum().backward()
    grads = {n: p.grad for n, p in trainer.model.named_parameters() if "layers.0" in n and "lora_B" in n}
    assert grads and all(g is not None and g.abs().max() > 0 for g in grads.values())


def test_a_loaded_quantised_model_says_the_same_in_both_modes(tmp_path: Path, tokenizer: Any) -> None:
    model = load_policy(
        quantised_folder(tmp_path, tokenizer), quantization_config=BitsAndBytesConfig(load_in_4bit=True)
    )
    layers = [module for module in model.modules() if isinstance(module, Linear4bit)]
    assert layers and not any(layer.support_avx512bf16_for_cpu for layer in layers)
    batch, wants = collate(list(ROWS)), frozenset({"logps"})
    evaluated = forward(model.eval(), batch, wants).logps
    assert torch.equal(forward(model.train(), batch, wants).logps, evaluated)


def test_a_model_that_was_packed_already_is_an_error(tmp_path: Path, tokenizer: Any) -> None:
    model = load_policy(
        quantised_folder(tmp_path, tokenizer), quantization_config=BitsAndBytesConfig(load_in_4bit=True)
    )
    layer = model.model.layers[0].self_attn.q_proj
    layer.weight.quant_state = SimpleNamespace(packing_format_for_cpu=True)
    with pytest.raises(ValueError, match="layers.0.self_attn.q_proj was packed.*load the model anew"):
        keep_differentiable(model)


def test_a_quantised_model_cannot_become_a_scorer_by_copy(tmp_path: Path, tokenizer: Any) -> None:
    model = load_policy(
        quantised_folder(tmp_path, tokenizer), quantization_config=BitsAndBytesConfig(load_in_4bit=True)
    )
    with pytest.raises(ValueError, match="pass its name, with the quantization_config"):
        load_scorer(model)


# ---- scorers -------------------------------------------------------------------------------------------------------


def test_a_policy_gives_its_backbone_to_a_scorer_and_keeps_its_own() -> None:
    policy = tiny_llama()
    scorer = load_scorer(policy)
    assert scorer.config.num_labels == 1 and not scorer.training
    assert scorer.num_labels == reward_head_of(scorer).out_features == 1
    for name, parameter in policy.model.named_parameters():
        copied = scorer.model.get_parameter(name)
        assert torch.equal(copied, parameter) and copied.data_ptr() != parameter.data_ptr()
    assert load_scorer(scorer) is scorer


def test_pad_is_never_the_end_of_a_response(tokenizer: Any, caplog: pytest.LogCaptureFixture) -> None:
    own = copy.deepcopy(tokenizer)
    own.pad_token = own.eos_token
    scorer = load_scorer(tiny_llama(), own)
    assert scorer.config.pad_token_id == own.pad_token_id != own.eos_token_id
    assert "pad was an end token" in caplog.text
    kept = copy.deepcopy(tokenizer)
    separate_pad(scorer, kept)
    assert kept.pad_token == tokenizer.pad_token and scorer.config.pad_token_id == tokenizer.pad_token_id


def test_a_tokenizer_with_nothing_to_pad_with_is_an_error(tokenizer: Any) -> None:
    from transformers import PreTrainedTokenizerFast

    bare = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, eos_token="<eos>", pad_token="<eos>")
    with pytest.raises(ValueError, match="add_special_tokens.*resize_token_embeddings"):
        load_scorer(tiny_llama(), bare)


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_a_tokenizer_comes_back_as_it_was_saved(family: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Beside a Qwen2 model AutoTokenizer makes another of it, which gives no ids at all for this text."""
    core = Tokenizer(models.WordLevel({"<unk>": 0, "bread": 1, "and": 2, "water": 3}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", eos_token="<unk>").save_pretrained(tmp_path)
    tiny(family).config.save_pretrained(tmp_path)
    tokenizer = load_tokenizer(str(tmp_path))
    assert tokenizer("bread and water")["input_ids"] == [1, 2, 3]
    assert any("loaded as it was saved" in message for message in caplog.messages) == (family == "qwen2")
