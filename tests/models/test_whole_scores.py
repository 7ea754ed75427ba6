"""Classification models of 28 families score as transformers' `.logits`: alone, batched, trained and saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from datasets import Dataset
from peft import AutoPeftModelForSequenceClassification, LoraConfig, get_peft_model
from tokenizers import ByteLevelBPETokenizer, Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast

from prefopt import RewardConfig, RewardTrainer
from prefopt.data import Encoding
from prefopt.data.collate import collate
from prefopt.data.row_encoder import Encoder
from prefopt.models.forward import forward
from prefopt.models.heads import head_name
from prefopt.models.layout_selection import request_layout
from prefopt.models.load import add_adapter, load_scorer
from prefopt.models.whole_scores import ALONE, LAST, WHOLE, find_reading
from prefopt.scoring import scorer_from
from tests.helpers.models import FAMILIES, VOCAB
from tests.helpers.training import quiet

SIZES = {"vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
ENCODER = {**SIZES, "intermediate_size": 48, "max_position_embeddings": 64, "pad_token_id": 0}
OFFSET = {**ENCODER, "pad_token_id": 1}  # positions are counted from the ids that are not pad, and begin at 2
RELATIVE = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "type_vocab_size": 0}
ENCODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("Bert", ENCODER),
    "roberta": ("Roberta", OFFSET),
    "deberta": ("Deberta", ENCODER | RELATIVE),
    "deberta-v2": ("DebertaV2", ENCODER | RELATIVE),
    "distilbert": (
        "DistilBert",
        {"vocab_size": VOCAB, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48, "max_position_embeddings": 64},
    ),
    "modernbert": (
        "ModernBert",
        ENCODER | {"cls_token_id": 2, "bos_token_id": 2, "sep_token_id": 3, "eos_token_id": 3},
    ),
    "electra": ("Electra", ENCODER | {"embedding_size": 32}),
    "xlm-r": ("XLMRoberta", OFFSET),
    "albert": ("Albert", ENCODER | {"embedding_size": 16}),
    "mpnet": ("MPNet", OFFSET),
    "camembert": ("Camembert", OFFSET),
    "bigbird": ("BigBird", ENCODER | {"attention_type": "original_full", "sep_token_id": 3}),
    "modernbert-decoder": (  # a layer is between backbone and head
        "ModernBertDecoder",
        ENCODER | {"cls_token_id": 2, "bos_token_id": 2, "sep_token_id": 3, "eos_token_id": 3},
    ),
    # Padding changes what these make of a text.
    "convbert": ("ConvBert", ENCODER | {"embedding_size": 32}),
    "fnet": ("FNet", ENCODER),
    "mobilebert": (
        "MobileBert",
        ENCODER | {"embedding_size": 32, "intra_bottleneck_size": 32, "hidden_dropout_prob": 0.1},
    ),
    "nystromformer": ("Nystromformer", ENCODER),
}
PADS_BADLY = ("convbert", "fnet", "mobilebert", "nystromformer")
DECODERS = ("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "phi", "gpt2", "gpt_neox", "opt", "bloom")
ALL = [*ENCODERS, *DECODERS]
ROWS = [
    {"prompt_ids": [5, 6, 7], "response_ids": [[8, 9, 10, 3], [11, 3]]},
    {"prompt_ids": [15, 16, 17, 18, 19], "response_ids": [[8, 3], [11, 12, 13, 14, 20, 3]]},
    {"prompt_ids": [31], "response_ids": [[45, 3], [44, 46, 3]]},
]
SCORES = frozenset({"scores"})


def classifier(family: str, labels: int = 1, dtype: torch.dtype = torch.float32, **changes: Any) -> Any:
    name, settings = ENCODERS[family] if family in ENCODERS else FAMILIES[family]
    config = getattr(hf, f"{name}Config")(**settings | changes, num_labels=labels)
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3) if parameter.dim() > 1 else parameter.data.add_(
            torch.randn_like(parameter) * 0.1
        )
    return model.to(dtype).eval()


def texts(rows: Any = ROWS) -> list[list[int]]:
    return [row["prompt_ids"] + response for row in rows for response in row["response_ids"]]


def plain(model: Any, rows: Any = ROWS) -> Tensor:
    """What plain transformers gives to each text alone."""
    with torch.no_grad():
        return torch.stack([model(torch.tensor([ids])).logits[0, 0] for ids in texts(rows)])


def ours(model: Any, rows: Any = ROWS) -> Tensor:
    with torch.no_grad():
        return forward(model, collate(list(rows)), SCORES).required("scores").flatten()


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    assert expected.float().std() > 0.01, "scores that are all alike would show nothing"
    torch.testing.assert_close(found.float(), expected.float(), rtol=tolerance, atol=tolerance)


def words(cls: bool = False, pad: str = "[PAD]") -> PreTrainedTokenizerFast:
    """A tokenizer of whole words; with `cls` one of BERT's kind, which has CLS and SEP, and no BOS or EOS."""
    names = ["[PAD]", "<pad>", "[CLS]", "[SEP]", "[UNK]", *(f"w{i}" for i in range(5, VOCAB))]
    core = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="[UNK]"))
    core.normalizer, core.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.WhitespaceSplit()
    if cls:
        core.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
        return PreTrainedTokenizerFast(
            tokenizer_object=core, cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]", unk_token="[UNK]"
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="[CLS]", eos_token="[SEP]", pad_token=pad, unk_token="[UNK]"
    )


@pytest.mark.parametrize("family", ALL)
def test_scores_are_the_logits_alone_and_batched(family: str) -> None:
    model = classifier(family)
    expected = plain(model)
    batched, alone = ours(model), torch.cat([ours(model, [row]) for row in ROWS])
    largest = max(float((found - expected).abs().max()) for found in (batched, alone))
    print(f"{family}: scores of {expected.std():.2f} around their mean, largest difference {largest:.1e}")  # pytest -rP
    close(batched, expected)
    close(alone, expected)


@pytest.mark.parametrize("family", PADS_BADLY)
def test_where_padding_changes_a_score_rows_run_without(family: str) -> None:
    """Padded, plain transformers gives other scores than to a text alone."""
    model, ids = classifier(family), [torch.tensor(text) for text in texts()]
    padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=model.config.pad_token_id)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(text) for text in ids], batch_first=True)
    with torch.no_grad():
        beside = model(padded, attention_mask=mask).logits[:, 0]
    assert (beside - plain(model)).abs().max() > 0.1
    close(ours(model), plain(model))


@pytest.mark.parametrize("family", sorted({*ALL} - {"fnet"}))  # CPUs have no Fourier transform in half precision
def test_half_precision_reads_where_full_precision_does(family: str) -> None:
    readings = [
        find_reading(classifier(family, dtype=dtype), torch.device("cpu"), tolerance)
        for dtype, tolerance in ((torch.float32, 1e-4), (torch.bfloat16, 0.1))
    ]
    expected = LAST if family in DECODERS else ALONE if family in PADS_BADLY else WHOLE
    assert readings == [expected, expected]


@pytest.mark.parametrize("family", ["bert", "llama", "modernbert-decoder", "fnet"])
def test_a_head_of_zeros_is_read_where_a_trained_one_is(family: str) -> None:
    """It says nothing of where it reads when the model is tried, and it learns afterwards."""
    model = classifier(family)
    head = getattr(model, head_name(model))
    trained = head.weight.detach().clone()
    nn.init.zeros_(head.weight)
    ours(model)
    head.weight.data.copy_(trained)
    close(ours(model), plain(model))


@pytest.mark.parametrize("family", ["bert", "fnet"])
def test_packed_rows_are_refused_on_request(family: str) -> None:
    model = classifier(family)
    request_layout(model, "segments")
    with pytest.raises(ValueError, match="layout='segments' would be wrong for .*own forward pass"):
        ours(model)


@pytest.mark.parametrize("family", ALL)
def test_gradients_are_those_of_the_logits(family: str) -> None:
    model = classifier(family)
    sum(model(torch.tensor([ids])).logits[0, 0].sin() for ids in texts()).backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    forward(model, collate(ROWS), SCORES).required("scores").sin().sum().backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert found.keys() == expected.keys()
    scale = max(float(gradient.abs().max()) for gradient in expected.values())
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-5 * scale)


@pytest.mark.parametrize("family", ALL)
def test_a_trained_and_saved_model_scores_the_same_everywhere(family: str, tmp_path: Path) -> None:
    model = classifier(family)
    tokenizer = words(pad="<pad>" if model.config.pad_token_id == 1 else "[PAD]")
    args = RewardConfig(**quiet(tmp_path, max_steps=2, per_device_train_batch_size=3, learning_rate=1e-2))
    before = plain(model)
    trainer = RewardTrainer(model, args, train_dataset=ROWS, processing_class=tokenizer)
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    saved = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved").eval()
    expected = plain(saved)
    assert (expected - before).abs().max() > 1e-3, "training that changes nothing would show nothing"
    close(ours(trainer.model.eval()), expected)
    close(ours(load_scorer(str(tmp_path / "saved")).eval()), expected)
    scorer = scorer_from(str(tmp_path / "saved"), normalized=False)
    given = scorer.score_ids([row["prompt_ids"] for row in ROWS], [row["response_ids"][0] for row in ROWS], tokenizer)
    close(torch.tensor(given), expected[::2])


@pytest.mark.parametrize("family", ENCODERS)
def test_dropout_is_on_in_training_and_off_in_evaluation(family: str) -> None:
    model = classifier(family)
    torch.manual_seed(0)
    assert not torch.equal(ours(model.train()), ours(model)) or "modernbert" in family  # without any by default
    assert torch.equal(ours(model.eval()), ours(model))


@pytest.mark.parametrize("family", ["bert", "roberta", "modernbert", "distilbert"])
def test_the_head_is_in_float32_over_a_half_precision_backbone(family: str, tmp_path: Path) -> None:
    classifier(family).save_pretrained(tmp_path)
    model = load_scorer(str(tmp_path), dtype=torch.bfloat16).eval()
    assert model.classifier.state_dict().popitem()[1].dtype == torch.float32
    close(ours(model), plain(classifier(family)), 0.1)


def test_a_text_of_berts_has_cls_before_it_and_sep_behind_it() -> None:
    tokenizer = words(cls=True)
    batch = {"prompt": [[{"role": "text", "content": "w7 w8"}]], "response": [" w9 w10"]}
    row = Encoder(tokenizer, Encoding())(batch, [0])
    assert row["prompt_ids"][0] + row["response_ids"][0][0] == tokenizer("w7 w8 w9 w10")["input_ids"]


@pytest.mark.parametrize("has_own_head", [True, False])
@pytest.mark.parametrize("family", ["bert", "roberta", "deberta-v2", "distilbert", "modernbert", "electra", "llama"])
def test_an_adapter_brings_the_layers_below_its_head(family: str, has_own_head: bool, tmp_path: Path) -> None:
    """Over a checkpoint without them they are random at each load, so they train and are saved with the adapter."""
    model, tokenizer = classifier(family), words(pad="<pad>" if family == "roberta" else "[PAD]")
    (model if has_own_head else model.base_model).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    args = RewardConfig(**quiet(tmp_path, max_steps=2, per_device_train_batch_size=3, learning_rate=1e-2))
    lora = LoraConfig(r=4, target_modules="all-linear")
    trainer = RewardTrainer(
        str(tmp_path / "base"), args, train_dataset=ROWS, processing_class=tokenizer, peft_config=lora
    )
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    torch.manual_seed(1)
    again = AutoPeftModelForSequenceClassification.from_pretrained(tmp_path / "saved", num_labels=1).eval()
    with torch.no_grad():
        expected = torch.cat([again(torch.tensor([ids])).logits[:, 0] for ids in texts()])
    torch.testing.assert_close(ours(trainer.model.eval()), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours(load_scorer(str(tmp_path / "saved")).eval()), expected, rtol=1e-5, atol=1e-5)


def test_an_adapter_leaves_the_layers_below_the_head_to_themselves() -> None:
    """Also where its own settings already leave something out."""
    for exclude in (["v_lin"], r".*v_lin"):
        lora = LoraConfig(r=4, target_modules="all-linear", exclude_modules=exclude)
        model = add_adapter(classifier("distilbert"), lora, gradient_checkpointing=False)
        adapted = {name.split(".lora_A")[0].split(".")[-1] for name, _ in model.named_parameters() if "lora_A" in name}
        assert adapted == {"q_lin", "k_lin", "out_lin", "lin1", "lin2"}
        assert model.modules_to_save == {"classifier", "score", "pre_classifier"}


@pytest.mark.parametrize("has_own_head", [True, False])
@pytest.mark.parametrize("family", ["bert", "roberta", "llama"])
def test_an_adapter_of_several_labels_is_refused_at_both_doors(family: str, has_own_head: bool, tmp_path: Path) -> None:
    model, tokenizer = classifier(family, 2), words()
    (model if has_own_head else model.base_model).save_pretrained(tmp_path / "base")
    base = AutoModelForSequenceClassification.from_pretrained(tmp_path / "base", num_labels=2)
    lora = LoraConfig(r=4, target_modules="all-linear", task_type="SEQ_CLS")
    get_peft_model(base, lora).save_pretrained(tmp_path / "adapter")
    source = str(tmp_path / "adapter")
    message = "adapter gives 2 numbers to a response, and a reward model gives one: make it with num_labels=1"
    with pytest.raises(ValueError, match=message):
        RewardTrainer(source, RewardConfig(**quiet(tmp_path)), train_dataset=ROWS, processing_class=tokenizer)
    with pytest.raises(ValueError, match=message):
        scorer_from(source, tokenizer=tokenizer)


def test_a_head_that_is_not_known_is_refused_at_both_doors(tmp_path: Path) -> None:
    """Of an encoder with a decoder, and of a family that calls it otherwise."""
    sizes: dict[str, Any] = {"vocab_size": VOCAB, "d_model": 32, "num_labels": 1}
    for config in (
        hf.BartConfig(**sizes, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=32, decoder_ffn_dim=32),
        hf.XLNetConfig(**sizes, n_layer=1, n_head=4, d_inner=32),
    ):
        model = AutoModelForSequenceClassification.from_config(config)
        with pytest.raises(ValueError, match=r"ForSequenceClassification has no reward head .* take one such as Llama"):
            RewardTrainer(model, RewardConfig(**quiet(tmp_path)), train_dataset=ROWS, processing_class=words())
        with pytest.raises(ValueError, match="has no reward head"):
            scorer_from(model, tokenizer=words())


@pytest.mark.parametrize("problem", ["regression", "single_label_classification", "multi_label_classification"])
def test_one_label_is_a_score_whatever_the_problem_is_called(problem: str) -> None:
    model = classifier("bert")
    model.config.problem_type = problem
    close(ours(model), plain(model))
    close(torch.tensor(scored(model)), plain(model)[::2])


def scored(model: Any) -> list[float]:
    """What the scorer gives to each prompt's first response."""
    tokenizer = words()
    scorer = scorer_from(model, tokenizer=tokenizer)
    return scorer.score_ids([row["prompt_ids"] for row in ROWS], [row["response_ids"][0] for row in ROWS], tokenizer)


@pytest.mark.parametrize("family", ["bert", "llama"])
@pytest.mark.parametrize("labels", [0, 2, 3])
def test_several_labels_are_refused_at_both_doors(family: str, labels: int, tmp_path: Path) -> None:
    model, tokenizer = classifier(family, labels), words()
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    args = RewardConfig(**quiet(tmp_path))
    message = rf"gives {labels} numbers to a response, and a reward model gives one: make it with num_labels=1"
    for source in (model, str(tmp_path / "model")):
        with pytest.raises(ValueError, match=message):
            RewardTrainer(source, args, train_dataset=ROWS, processing_class=tokenizer)
        with pytest.raises(ValueError, match=message):
            scorer_from(source, tokenizer=tokenizer)


def test_attention_that_a_short_text_changes_for_good_is_refused_at_both_doors(tmp_path: Path) -> None:
    """Plain transformers gives a long text another score after a short one; with full attention the same."""
    sparse = {"attention_type": "block_sparse", "block_size": 2, "num_random_blocks": 1}
    long, short = torch.arange(5, 55)[None], torch.arange(5, 9)[None]
    for settings, differs in ((sparse, True), ({}, False)):
        model = classifier("bigbird", **settings)
        with torch.no_grad():
            first, _, again = (model(ids).logits.item() for ids in (long, short, long))
        assert (abs(first - again) > 1e-3) == differs
    model = classifier("bigbird", **sparse)
    model.save_pretrained(tmp_path / "sparse")
    for source in (model, str(tmp_path / "sparse")):
        with pytest.raises(ValueError, match=r"block_sparse.*Load it with attention_type='original_full'"):
            RewardTrainer(source, RewardConfig(**quiet(tmp_path)), train_dataset=ROWS, processing_class=words())
        with pytest.raises(ValueError, match="block_sparse"):
            scorer_from(source, tokenizer=words())
    whole = load_scorer(str(tmp_path / "sparse"), attention_type="original_full").eval()
    close(ours(whole), plain(whole))


def test_a_model_that_scores_tokens_is_refused_at_its_first_score() -> None:
    config = hf.LlamaConfig(**FAMILIES["llama"][1], num_labels=1)
    model = hf.LlamaForTokenClassification(config).eval()
    with pytest.raises(ValueError, match=r"LlamaForTokenClassification gives 12x1 numbers to a response"):
        ours(model)


def test_an_encoder_has_no_values() -> None:
    with pytest.raises(
        ValueError, match="scores a text by its own forward pass, as encoders do, and cannot give values"
    ):
        forward(classifier("bert"), collate(ROWS), frozenset({"values"}))


def test_an_encoder_without_a_classification_head_gets_a_new_one(tmp_path: Path, caplog: Any) -> None:
    """Also the layers between head and backbone are new then, and nothing else may be."""
    backbone = classifier("distilbert").distilbert
    backbone.save_pretrained(tmp_path)
    caplog.set_level("INFO")
    model = load_scorer(str(tmp_path))
    assert any("has no reward head: a new one was made" in message for message in caplog.messages)
    assert all(torch.equal(a, b) for a, b in zip(model.distilbert.parameters(), backbone.parameters(), strict=True))


def test_a_pad_token_that_positions_are_counted_by_stays_the_models(tmp_path: Path, caplog: Any) -> None:
    """The tokenizer gets it then: with another one in its config RoBERTa's positions would begin elsewhere."""
    model, tokenizer = classifier("roberta"), words()
    before = plain(model)
    RewardTrainer(model, RewardConfig(**quiet(tmp_path)), train_dataset=ROWS, processing_class=tokenizer)
    assert (model.config.pad_token_id, tokenizer.pad_token) == (1, "<pad>")
    assert any("counts positions by its own pad token" in message for message in caplog.messages)
    close(plain(model), before)


QUESTIONS = ["水在多少度沸腾？", "Where does the sun rise?", "给我讲一个关于月亮的故事。"]
GOOD = ["在海平面是一百度。", "In the east.", "从前，月亮上住着一只兔子。"]
BAD = ["不知道", "In the west, I think.", "没有。"]


def encoder_tokenizer(kind: str, folder: Path) -> Any:
    """BERT's WordPiece over characters, or RoBERTa's byte-level pieces, of a few hundred tokens."""
    texts = [*QUESTIONS, *GOOD, *BAD, "Human: Assistant:"]
    if kind == "bert":
        special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        characters = sorted({character for text in texts for character in text.lower() if not character.isspace()})
        names = [*special, *characters, *(f"##{c}" for c in characters if c.isascii() and c.isalpha())]
        return hf.BertTokenizer(vocab={name: number for number, name in enumerate(names)})
    core = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    core.train_from_iterator(texts, vocab_size=400, min_frequency=1, special_tokens=special, show_progress=False)
    core.save_model(str(folder))
    return hf.RobertaTokenizer.from_pretrained(str(folder))


@pytest.mark.parametrize("role", ["text", "user"])
@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_texts_are_scored_as_plain_transformers_reads_them(kind: str, role: str, tmp_path: Path) -> None:
    """Chinese and English, from pairs of text to a saved model: prompt and answer are one text, with CLS and SEP."""
    tokenizer = encoder_tokenizer(kind, tmp_path)
    model = classifier(kind, vocab_size=len(tokenizer), max_position_embeddings=130)
    prompts = [[{"role": role, "content": question}] for question in QUESTIONS]
    rows = [dict(prompt=p, chosen=good, rejected=bad) for p, good, bad in zip(prompts, GOOD, BAD, strict=True)]
    if role == "text":
        rows = [row | {"prompt": question} for row, question in zip(rows, QUESTIONS, strict=True)]
    args = RewardConfig(
        **quiet(tmp_path, max_steps=2, per_device_train_batch_size=3, learning_rate=1e-2), max_length=128
    )
    trainer = RewardTrainer(model, args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    saved = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved").eval()
    theirs = hf.AutoTokenizer.from_pretrained(tmp_path / "saved")
    shape = {"text": "{}{}", "user": "\n\nHuman: {}\n\nAssistant: {}"}[role]
    with torch.no_grad():
        expected = [
            saved(**theirs(shape.format(q, answer), return_tensors="pt")).logits.item()
            for q, answer in zip(QUESTIONS * 2, GOOD + BAD, strict=True)
        ]
    scorer = scorer_from(str(tmp_path / "saved"), normalized=False, encoding=Encoding(max_length=128))
    close(torch.tensor(scorer.score(prompts * 2, GOOD + BAD)), torch.tensor(expected))
