"""PPO: rollouts are collected, logged, and learnt from. The loop is `loop.py`."""

from typing import TYPE_CHECKING

import lazy_loader

from ...utils.renamed import renamed

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

if not TYPE_CHECKING:
    _OLD = {"Suspicion": "Alarm", "suspicion": "alarm_of", "Trace": "RolloutLog", "draw_trace": "plot_rollouts"}
    __getattr__ = renamed(__name__, _OLD, __getattr__)
