"""What a tokenizer is, as far as ids go: by it the ids that a policy sampled are known to be this tokenizer's."""

import hashlib
import json
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_known: "WeakKeyDictionary[Any, tuple[int, str]]" = WeakKeyDictionary()


def vocabulary(tokenizer: Any) -> Any:
    """What decides how text becomes ids; not padding and truncation, which any call of the tokenizer may set."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return sorted(tokenizer.get_vocab().items())
    return {k: v for k, v in json.loads(backend.to_str()).items() if k not in ("padding", "truncation")}


def tokenizer_fingerprint(tokenizer: "PreTrainedTokenizerBase") -> str:
    """A hash of a tokenizer's vocabulary and rules; its template does not count, as ids mean the same under any."""
    size, found = _known.get(tokenizer, (-1, ""))
    if size != len(tokenizer):  # a large vocabulary takes a second to write, and tokens may have been added since
        text = json.dumps(vocabulary(tokenizer), sort_keys=True)
        found = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
        _known[tokenizer] = len(tokenizer), found
    return found
