"""PPO: rollouts are collected, logged, and learnt from."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
