"""Compares methods: a plan in, a report out.

The statistics need numpy and scipy only; all else needs the extra `prefopt[compare]`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
