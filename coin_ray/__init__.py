"""coin-ray: distributed hyper-parameter and ablation studies of COIN (ICCV 2025).

>>> import coin_ray
>>> study = coin_ray.load_study("baseline", workspace=folder)
>>> coin_ray.plan(study).to_compute["round"] > 0
True

``coin_ray.run(study)`` then computes it in this process, ``coin_ray.run(study, executor=
coin_ray.Cluster(address="auto"))`` on a Ray cluster, and ``coin_ray.results(workspace, study)``
reads what an earlier run left. All of it is imported when it is first asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from coin_ray.api.evaluation import evaluate as evaluate
    from coin_ray.api.results import Results as Results
    from coin_ray.api.runs import plan as plan
    from coin_ray.api.runs import results as results
    from coin_ray.api.runs import run as run
    from coin_ray.api.studies import Study as Study
    from coin_ray.api.studies import load_study as load_study
    from coin_ray.cluster.executor import Cluster as Cluster
    from coin_ray.errors import UserError as UserError
    from coin_ray.execution.local import Local as Local

__version__ = "0.2.0"
_PLACES = {
    "load_study": "api.studies",
    "Study": "api.studies",
    "plan": "api.runs",
    "run": "api.runs",
    "results": "api.runs",
    "Results": "api.results",
    "evaluate": "api.evaluation",
    "Local": "execution.local",
    "Cluster": "cluster.executor",
    "UserError": "errors",
}
"""Name -> the module that has it."""


def __getattr__(name: str) -> object:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PLACES})
