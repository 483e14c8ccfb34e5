"""``coin-ray schema``: the JSON Schema of studies and search spaces."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from coin_ray.cli import options
from coin_ray.cli.screen.output import say

Out = Annotated[Path | None, typer.Option("--out", metavar="FILE", help="write it there instead")]


def schema(out: Out = None, overwrite: options.Overwrite = False) -> None:
    """Print the JSON Schema of studies and search spaces, for completion in an editor.

    A file gets it by its first line: # yaml-language-server: $schema=FILE
    """
    import json

    from coin_ray.outputs import claim_file
    from coin_ray.study.schema import json_schema

    text = json.dumps(json_schema(), indent=1, ensure_ascii=False)
    if out is None:
        say(text)
    else:
        with claim_file(out, overwrite=overwrite).file(out.name) as part:
            part.write_text(text + "\n", encoding="utf-8")
