"""What keeps a page that is one file inert: a policy that names its own script, and texts that cannot become markup."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any


def policy(style: str, script: str) -> str:
    """The page's Content-Security-Policy: pictures within it, its own style and script, and nothing else."""

    def digest(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode('utf-8')).digest()).decode('ascii')}'"

    allowed = f"img-src data:; style-src {digest(style)}; script-src {digest(script)}"
    return f"default-src 'none'; {allowed}; base-uri 'none'; form-action 'none'"


def in_script(value: Any) -> str:
    """JSON that nothing in it can end early: neither the element around it nor, in old engines, a line."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def sound(text: str) -> str:
    """With U+FFFD for halves of surrogate pairs, which JSON may hold and UTF-8 may not."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
