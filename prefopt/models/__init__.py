"""HOW ARE MODELS LOADED AND RUN? Policies, reward models, critics and references, and `forward`, which runs a model.

`load.py` loads, `saved_adapter.py`, `new_adapter.py` and `merge.py` are about adapters, `heads.py` has the reward head,
`critic.py` and `shared_critic.py` PPO's critic, `reference.py` the reference of log-ratios, and `forward.py` runs all
of them on a batch. How tokens are laid out for that is in `layout.py`, who decides on it in `layout_selection.py`, and
what a pass costs in `flops.py`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
