"""An adapter's file that lacks a weight, or has one of another's, is an error: when loaded, and when gone on from."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import BitsAndBytesConfig

from prefopt import RewardConfig, RewardTrainer
from prefopt.models import IncompleteCheckpoint, load_policy, load_scorer
from prefopt.testbed import preference_rows
from tests.helpers.checkpoints import build
from tests.helpers.models import tiny_llama, untrained
from tests.helpers.ppo import trainer_of
from tests.helpers.rows import ragged_pairs
from tests.helpers.training import quiet

FILE = "adapter_model.safetensors"
KINDS: dict[str, dict[str, Any]] = {
    "lora": {},
    "dora": {"use_dora": True},
    "head in full": {"modules_to_save": ["lm_head"]},
    "tied alike": {"target_modules": ["q_proj", "embed_tokens"], "ensure_weight_tying": True},
    "tokens": {"trainable_token_indices": [5, 6, 7]},
    "biases": {"bias": "all"},
    "patterns": {
        "target_modules": ["q_proj", "v_proj"],
        "rank_pattern": {"v_proj": 2},
        "alpha_pattern": {"v_proj": 3},
        "use_rslora": True,
        "modules_to_save": ["embed_tokens"],
    },
}


def lora(kind: str) -> LoraConfig:
    return LoraConfig(**{"r": 4, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"} | KINDS[kind])


def of_policy(kind: str, folder: Path, tokenizer: Any) -> Any:
    tied = kind == "tied alike"
    return build(folder, model=tiny_llama(tie_word_embeddings=tied, attention_bias=True), peft_config=lora(kind))


def of_policy_and_critic(folder: Path, tokenizer: Any) -> Any:
    """PPO's, of which the critic is a second adapter with a head of its own."""
    given = {
        "peft_config": LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["lm_head"]),
        "share_critic": True,
    }
    return trainer_of(folder, tokenizer, Dataset.from_list(preference_rows(8, seed=3)), **given)


def of_reward_model(folder: Path, tokenizer: Any) -> Any:
    untrained(tokenizer).save_pretrained(folder / "base")
    args = RewardConfig(**quiet(folder, max_steps=1))
    given = {"train_dataset": ragged_pairs(4), "processing_class": tokenizer, "peft_config": LoraConfig(r=4)}
    return RewardTrainer(str(folder / "base"), args, **given)


MAKERS: dict[str, Callable[[Path, Any], Any]] = {
    **{kind: lambda folder, tokenizer, kind=kind: of_policy(kind, folder, tokenizer) for kind in KINDS},  # type: ignore[misc]
    "policy and critic": of_policy_and_critic,
    "reward model": of_reward_model,
}


def without(path: Path, name: str) -> None:
    save_file({key: tensor for key, tensor in load_file(path).items() if key != name}, path)


def own(weights: dict[str, Any]) -> list[str]:
    """The adapter's weights; beside those on embeddings PEFT saves the embeddings of the base too."""
    return [name for name in weights if "base_layer" not in name]


@pytest.mark.parametrize("kind", MAKERS)
def test_what_a_checkpoint_lacks_or_has_too_much_is_named(kind: str, tmp_path: Path, tokenizer: Any) -> None:
    """Each weight that safetensors itself finds in the file, one after another."""
    trainer = MAKERS[kind](tmp_path, tokenizer)
    trainer.save_policy(str(tmp_path / "saved"))
    folder = trainer.trained.policy_folder(tmp_path / "saved")
    weights = load_file(folder / FILE)
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    assert len(weights) >= 4
    for name in own(weights):
        without(folder / FILE, name)
        with pytest.raises(ValueError, match=rf"another adapter.*missing \['{name}'\]"):
            trainer.load_policy(str(tmp_path / "saved"))
        save_file(weights, folder / FILE)
    other = "base_model.model.model.layers.0.self_attn.o_proj.lora_A.weight"
    save_file(weights | {other: torch.zeros(4, 16)}, folder / FILE)
    with pytest.raises(ValueError, match=rf"missing none, unexpected \['{other}'\]"):
        trainer.load_policy(str(tmp_path / "saved"))
    save_file({name: tensor + 1 for name, tensor in weights.items()}, folder / FILE)
    trainer.load_policy(str(tmp_path / "saved"))
    after = dict(trainer.model.named_parameters())
    read = {name for name in before if not torch.equal(before[name], after[name])}
    assert read and all(torch.equal(after[name], before[name] + 1) for name in read)


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_that_lacks_a_weight_of_its_adapter_is_not_loaded(kind: str, tmp_path: Path) -> None:
    """PEFT itself warns, and leaves what is missing random."""
    tiny_llama(tie_word_embeddings=kind == "tied alike", attention_bias=True).save_pretrained(tmp_path / "base")
    model = PeftModel(load_policy(str(tmp_path / "base")), lora(kind))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(tmp_path / "adapter")
    path = tmp_path / "adapter" / FILE
    weights = load_file(path)
    for name in own(weights):
        without(path, name)
        stem = name.removesuffix(".weight").removesuffix(".bias")
        with pytest.raises(IncompleteCheckpoint, match=f"lacks weights of its adapter.*{stem}"):
            load_policy(str(tmp_path / "adapter"))
        save_file(weights, path)
    again = load_policy(str(tmp_path / "adapter"))
    ids = torch.arange(3, 60)[None]
    with torch.no_grad():
        torch.testing.assert_close(again.eval()(ids).logits, model.eval()(ids).logits)


def test_weights_that_the_config_has_no_place_for_are_an_error(tmp_path: Path) -> None:
    """As of an adapter_config.json beside the weights of another adapter; in PEFT itself without a word."""
    tiny_llama().save_pretrained(tmp_path / "base")
    for name, layers in (("one", ["q_proj", "v_proj"]), ("two", ["q_proj"])):
        config = LoraConfig(r=4, target_modules=layers, task_type="CAUSAL_LM")
        PeftModel(load_policy(str(tmp_path / "base")), config).save_pretrained(tmp_path / name)
    (tmp_path / "one" / FILE).rename(tmp_path / "two" / FILE)
    with pytest.raises(ValueError, match=r"no place for.*v_proj.*\(4 in all\). Take the config"):
        load_policy(str(tmp_path / "two"))


def test_a_reward_models_adapter_without_its_head_is_an_error(tmp_path: Path, tokenizer: Any) -> None:
    of_reward_model(tmp_path, tokenizer).save_policy(str(tmp_path / "saved"))
    without(tmp_path / "saved" / FILE, "base_model.model.score.weight")
    with pytest.raises(IncompleteCheckpoint, match=r"lacks weights of its adapter.*score\.weight"):
        load_scorer(str(tmp_path / "saved"))


@pytest.mark.parametrize("task", [None, "CAUSAL_LM"])
@pytest.mark.parametrize("quantised", [False, True])
def test_an_adapter_of_no_task_loads_on_a_base_that_has_moved(
    task: str | None, quantised: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PEFT alone takes the class from `auto_mapping`, and the path as it was written."""
    monkeypatch.chdir(tmp_path)
    base = tiny_llama(hidden_size=64, intermediate_size=128)
    base.save_pretrained("base")
    model = get_peft_model(
        type(base).from_pretrained("base"), LoraConfig(r=4, target_modules=["q_proj"], task_type=task)
    )
    assert model.peft_config["default"].base_model_name_or_path == "base"
    model.save_pretrained("runs/adapter")
    monkeypatch.chdir("/")
    four_bits = BitsAndBytesConfig(load_in_4bit=True) if quantised else None
    again = load_policy(str(tmp_path / "runs/adapter"), quantization_config=four_bits)
    assert isinstance(again, PeftModel) and hasattr(again, "generate")
    assert again.peft_config["default"].base_model_name_or_path == str(tmp_path / "base")


def test_an_adapter_of_another_task_is_refused(tmp_path: Path) -> None:
    tiny_llama().save_pretrained(tmp_path / "base")
    config = LoraConfig(r=4, target_modules=["q_proj"], task_type="FEATURE_EXTRACTION")
    PeftModel(load_policy(str(tmp_path / "base")), config).save_pretrained(tmp_path / "adapter")
    with pytest.raises(ValueError, match=r"task_type FEATURE_EXTRACTION, and not one of a policy \(CAUSAL_LM\)"):
        load_policy(str(tmp_path / "adapter"))


@pytest.mark.parametrize("saves", [True, False])
def test_tokens_that_were_added_are_the_adapters_or_random(saves: bool, tmp_path: Path, tokenizer: Any) -> None:
    base = untrained(tokenizer)
    base.save_pretrained(tmp_path / "base")
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.add_tokens(["<new>", "<newer>"])
    base.resize_token_embeddings(len(tokenizer))
    config = LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM")
    model = PeftModel(base, config)
    model.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
    model.save_pretrained(tmp_path / "adapter", save_embedding_layers=saves)
    tokenizer.save_pretrained(tmp_path / "adapter")
    if not saves:
        with pytest.raises(IncompleteCheckpoint, match=r"tokens, and its base has .*save_embedding_layers=True"):
            load_policy(str(tmp_path / "adapter"))
        return
    again, ids = load_policy(str(tmp_path / "adapter")), torch.tensor([[5, len(tokenizer) - 1, len(tokenizer) - 2]])
    with torch.no_grad():
        torch.testing.assert_close(again.eval()(ids).logits, model.eval()(ids).logits)
