"""The report over rounds, as a page, as Markdown, as JSON, and in the terminal, in English and Chinese."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
