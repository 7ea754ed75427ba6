"""Tokenizers of the families that people bring: their real normalisers, pre-tokenizers and decoders, tiny vocabularies.

What a family is made of is in the tokenizer.json files of published models: which text gets a space before it, what
merges with what, and what is put right on the way.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

LINES = [
    "What is the capital of France? The capital of France is Paris. It is on the Seine.",
    "How do I bake bread? Mix flour, water, salt and yeast, then wait for 12 hours.",
    "中国的首都是哪里？北京是中国的首都。谢谢你的帮助！为什么？",
    "system user assistant [INST] [/INST] <|system|> <|user|> <|assistant|> <think> </think>\n\n",
]
SPECIALS = ["<unk>", "<s>", "</s>", "<pad>", "<|im_start|>", "<|im_end|>", "<turn>", "</turn>"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BLOOM = r" ?[^(\s|[.,!?…。，、।۔،])]+"
SPACE = "▁"


def _metaspace(scheme: str, split: bool) -> Any:
    return pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme=scheme, split=split)


def _split_then_bytes(pattern: str) -> Any:
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def _sentencepiece_decoder(strip: bool = True) -> Any:
    parts: list[Any] = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    return decoders.Sequence([*parts, *([decoders.Strip(" ", 1, 0)] if strip else [])])


# name -> (model, normaliser, pre-tokenizer, decoder)
_PARTS: dict[str, Any] = {
    "gpt2": lambda: ("bytes", None, pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()),
    "roberta": lambda: ("bytes", None, pre_tokenizers.ByteLevel(add_prefix_space=True), decoders.ByteLevel()),
    "llama3": lambda: ("bytes", None, _split_then_bytes(LLAMA3), decoders.ByteLevel()),
    "qwen2": lambda: ("bytes", normalizers.NFC(), _split_then_bytes(LLAMA3), decoders.ByteLevel()),
    "bloom": lambda: ("bytes", None, _split_then_bytes(BLOOM), decoders.ByteLevel()),
    "deepseek": lambda: (
        "bytes",
        None,
        pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex("[\r\n]"), "isolated"),
                pre_tokenizers.Split(Regex(r"\s?\p{L}+"), "isolated"),
                pre_tokenizers.Split(Regex(r"\s+$"), "isolated"),
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        ),
        decoders.ByteLevel(),
    ),
    "llama-legacy": lambda: (
        "fallback",
        normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)]),
        None,
        _sentencepiece_decoder(),
    ),
    "llama": lambda: ("fallback", None, _metaspace("first", False), _sentencepiece_decoder()),
    "mistral-always": lambda: ("fallback", None, _metaspace("always", False), _sentencepiece_decoder()),
    "gemma": lambda: (
        "fallback",
        normalizers.Replace(" ", SPACE),
        pre_tokenizers.Split(" ", "merged_with_previous"),
        _sentencepiece_decoder(strip=False),
    ),
    "t5": lambda: (
        "unigram",
        normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]),
        pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), _metaspace("always", True)]),
        decoders.Metaspace(replacement=SPACE, prepend_scheme="always"),
    ),
    "albert": lambda: (
        "unigram",
        normalizers.Sequence([normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase()]),
        _metaspace("first", True),
        decoders.Metaspace(replacement=SPACE, prepend_scheme="first"),
    ),
    "bert": lambda: (
        "wordpiece",
        normalizers.BertNormalizer(),
        pre_tokenizers.BertPreTokenizer(),
        decoders.WordPiece(),
    ),
}
FAMILIES = tuple(_PARTS)


@cache
def _core(family: str) -> str:
    kind, normalizer, pre_tokenizer, decoder = _PARTS[family]()
    special: dict[str, Any] = {"special_tokens": SPECIALS, "show_progress": False}
    alphabet = pre_tokenizers.ByteLevel.alphabet() if kind == "bytes" else []
    model, trainer = {
        "bytes": (models.BPE(), trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet, **special)),
        "fallback": (
            models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True),
            trainers.BpeTrainer(vocab_size=620, show_progress=False, special_tokens=[*SPECIALS, *BYTES]),
        ),
        "unigram": (models.Unigram(), trainers.UnigramTrainer(vocab_size=160, unk_token="<unk>", **special)),
        "wordpiece": (models.WordPiece(unk_token="<unk>"), trainers.WordPieceTrainer(vocab_size=300, **special)),
    }[kind]
    core = Tokenizer(model)
    if normalizer is not None:
        core.normalizer = normalizer
    core.pre_tokenizer = _metaspace("first", True) if kind == "fallback" else pre_tokenizer  # merges stay within words
    core.train_from_iterator(LINES * 3, trainer)
    core.pre_tokenizer, core.decoder = pre_tokenizer, decoder
    return str(core.to_str())


def family_tokenizer(
    family: str, template: str | None = None, eos: str = "</s>", add_bos: bool = False, strip_right: bool = False
) -> PreTrainedTokenizerFast:
    """A tokenizer of this family.

    Args:
        strip_right: make <turn> swallow the space after it, as Phi-3's markers do.
    """
    core = Tokenizer.from_str(_core(family))
    if add_bos:
        core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    markers = [AddedToken(name, rstrip=strip_right and name == "<turn>", special=True) for name in SPECIALS[4:]]
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token=eos,
        pad_token="<pad>",
        additional_special_tokens=[marker for marker in markers if marker.content != eos],
        chat_template=template,
    )
