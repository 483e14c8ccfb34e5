"""Labels as names that are safe in a path."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence


def unique_slugs(labels: Sequence[str]) -> list[str]:
    """Each label as a short name for a path; a label that loses anything on the way carries four
    digits of its digest, so that a name never changes when other labels come or go."""
    out = []
    for text in labels:
        slug = re.sub(r"[^A-Za-z0-9._]+", "-", text).strip("-.")[:48]
        exact = slug == text or slug == text.replace(" ", "-")
        digest = hashlib.sha256(text.encode()).hexdigest()[:4]
        out.append(slug if exact and slug else f"{slug}-{digest}".lstrip("-"))
    return out
