"""What a comparison shows: its numbers, and the report of them as HTML, Markdown, JSON and on a terminal."""

import lazy_loader

from ...utils.extras import require

require("compare", ("markupsafe", "pandas"), "prefopt.compare")

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
