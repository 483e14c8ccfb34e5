"""The last resort: an error that nobody foresaw, as one line and a file that says everything."""

from __future__ import annotations

import json
import os
import shlex
import sys
import tempfile
import time
import traceback
from pathlib import Path

CODE = 70
"""Exit code of a fault of the program (EX_SOFTWARE)."""
WORKSPACE = "coin_ray.workspace"
"""Where a call of a verb notes its workspace, in the meta of its context."""


def message(error: Exception, workspace: Path | None) -> str:
    """One line about ``error``; the traceback is in the file that it names, or follows where no
    file can be written."""
    said = " ".join("".join(c if c.isprintable() else " " for c in str(error)).split())
    what = f"coin-ray stopped at a fault of its own ({type(error).__name__}: {said[:200]})"
    text = _account(error)
    for folder in (workspace, Path(tempfile.gettempdir())):
        if folder is None or not folder.is_dir():
            continue  # nobody asked for a workspace to be made
        try:
            return f"{what}; please report it with {_kept(text, folder)}"
        except OSError:
            continue
    return f"{what}; no file could be written, so here is the traceback\n{text}"


def _kept(text: str, folder: Path) -> str:
    # A name of its own, readable by its owner alone: paths may be confidential.
    number, name = tempfile.mkstemp(
        ".log", f"coin-ray-error-{time.strftime('%Y%m%d-%H%M%S')}-", folder
    )
    try:
        with os.fdopen(number, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
    except OSError:
        os.unlink(name)
        raise
    return name


def _account(error: Exception) -> str:
    from coin_ray.tracking.environment import environment

    trace = "".join(traceback.format_exception(error))
    return f"{shlex.join(sys.argv)}\n{json.dumps(environment(), indent=1)}\n\n{trace}"
