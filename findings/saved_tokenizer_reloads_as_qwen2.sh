#!/usr/bin/env bash
# transformers 5.23.0, tokenizers 0.23.3: a tokenizer of one's own, saved beside a Qwen2 model, comes back as another.
#
# Guess: AutoTokenizer gives the tokenizer that lies in the folder, whatever the model beside it; or, where the model's
#        type decides, it does so for every type.
# Seen: beside the configs of Llama, GPT-2, Mistral and Qwen3 it does. Beside Qwen2's it builds a `Qwen2Tokenizer` with
#       Qwen2's pre-tokenizer and normaliser around the saved vocabulary, without a word. A byte-level BPE that keeps
#       digits together gets other ids; of a vocabulary of words all text becomes the empty list.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet transformers==5.23.0 tokenizers==0.23.3 jinja2
cd "$folder"
HF_HOME="$folder/cache" HF_HUB_OFFLINE=1 venv/bin/python - 2>/dev/null <<'PYTHON'
import tokenizers
import transformers
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

print("transformers", transformers.__version__, "tokenizers", tokenizers.__version__)

words = Tokenizer(models.WordLevel({"<unk>": 0, "bread": 1, "and": 2, "water": 3}, unk_token="<unk>"))
words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
pieces = Tokenizer(models.BPE())
pieces.pre_tokenizer = pre_tokenizers.Sequence(
    [pre_tokenizers.Split(Regex(r"[0-9]+"), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False)]
)
pieces.decoder = decoders.ByteLevel()
pieces.train_from_iterator(
    ["in 2024 and 2025"] * 9,
    trainers.BpeTrainer(vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False),
)
CONFIGS = ("LlamaConfig", "GPT2Config", "MistralConfig", "Qwen3Config", "Qwen2Config")
changed = {}
for name, core, text in (("words", words, "bread and water"), ("pieces", pieces, "in 2024")):
    own = transformers.PreTrainedTokenizerFast(tokenizer_object=core, eos_token=None)
    for kind in CONFIGS:
        place = f"{name}-{kind}"
        own.save_pretrained(place)
        getattr(transformers, kind)().save_pretrained(place)
        again = transformers.AutoTokenizer.from_pretrained(place)
        ids, saved = again(text)["input_ids"], own(text)["input_ids"]
        print(f"{name:<7}{kind:<14}{type(again).__name__:<18} {len(saved)} ids saved, {len(ids)} after loading")
        changed[name, kind] = ids != saved
        if name == "words" and kind == "Qwen2Config":
            assert ids == []

assert {key for key, value in changed.items() if value} == {("words", "Qwen2Config"), ("pieces", "Qwen2Config")}
print("as described")
PYTHON
