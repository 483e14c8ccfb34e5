"""The settings that a study starts from, where a search space has others for generated tiles, or
prefers what needs an extra."""

from __future__ import annotations

import importlib.util

from coin_ray.study.chain import Chain
from coin_ray.study.patches import Patch, plain, read_patch

MODULES = {"crf": "pydensecrf", "sam2": "sam2"}
"""Extras that settings may need, and a module of each."""


def read_base(chain: Chain, *, generated: bool) -> tuple[Patch, tuple[str, ...]]:
    """``baseline:`` of all files, the nearest last, and what is to be said of it: of a search
    space that has other settings for ``generated`` tiles, that they count; of one that has others
    ``without`` an extra, which of the two count here."""
    base: Patch = {}
    said: list[tuple[Patch, str]] = []
    for doc in reversed(chain.files):
        blocks = doc.root.value
        if "baseline" in blocks:
            base |= read_patch(blocks["baseline"])
        if "generated" in blocks:
            others = read_patch(blocks["generated"])
            if generated:
                base |= others
                said.append((others, "for generated tiles"))
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
    counting = [({k: n for k, n in patch.items() if base[k] is n}, why) for patch, why in said]
    return base, tuple(
        f"{', '.join(f'{key}: {value}' for key, value in plain(patch).items())}, {why}"
        for patch, why in counting
        if patch
    )
