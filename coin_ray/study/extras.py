"""The settings that a study starts from, where a search space prefers what needs an extra."""

from __future__ import annotations

import importlib.util

from coin_ray.study.chain import Chain
from coin_ray.study.patches import Patch, plain, read_patch

MODULES = {"crf": "pydensecrf", "sam2": "sam2"}
"""Extras that settings may need, and a module of each."""


def read_base(chain: Chain) -> tuple[Patch, tuple[str, ...]]:
    """``baseline:`` of all files, the nearest last, and what is to be said of it: of a search
    space that has other settings ``without`` an extra, which of the two count here."""
    base: Patch = {}
    said: list[tuple[Patch, str]] = []
    for doc in reversed(chain.files):
        blocks = doc.root.value
        if "baseline" in blocks:
            base |= read_patch(blocks["baseline"])
        if "without" not in blocks:
            continue
        for extra, node in blocks["without"].known(tuple(MODULES), "without").items():
            instead = read_patch(node)
            if extra not in MODULES:
                continue
            if importlib.util.find_spec(MODULES[extra]) is not None:
                used = {key: base[key] for key in instead if key in base}
                said.append((used, f"of the extra {extra}"))
            else:
                base |= instead
                said.append((instead, f"without the extra {extra}, which is not installed"))
    # What a nearer file has set anew is nobody's second choice any more.
    return base, tuple(
        f"{', '.join(f'{key}: {value}' for key, value in plain(patch).items())}, {why}"
        for patch, why in said
        if all(base[key] is node for key, node in patch.items())
    )
