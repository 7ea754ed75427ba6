"""The `prefopt` command; `main` runs it. Importing this loads nothing heavy: `prefopt --help` answers at once."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
