"""The content digests that keys hold of what lies outside the store: weights and mask files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec

from coin_ray import safe
from coin_ray.data.dataset import DataSet
from coin_ray.errors import UserError
from coin_ray.pipeline.identity import CellIdentity
from coin_ray.pipeline.needs import mask_digest, mask_folder, needed_weights, uses_crf, uses_sam2
from coin_ray.pipeline.settings import Cell


def identities(
    cells: Sequence[CellIdentity], data: Mapping[str, DataSet], until: str | None = None
) -> tuple[dict[str, str], dict[tuple[str, str], dict[str, str]]]:
    """Content digests of the weights by name, and of the mask files by folder and data set."""
    from coin_ray.propagation.crf import load_dense_crf
    from coin_ray.weights import registry

    names = sorted({name for cell in cells for name in needed_weights(cell.config, until)})
    missing = [n for n in names if not registry.path_of(registry.entry(n)).is_file()]
    if len(missing) > 1:
        raise UserError(
            f"{len(missing)} weight files are missing: {', '.join(missing)}",
            do=f"`coin-ray models fetch {safe.shell(*missing)}`; without them: `--profile mini`",
        )
    if until is None and any(uses_crf(cell.config) for cell in cells):
        load_dense_crf()
    if until is None and any(uses_sam2(cell.config) for cell in cells) and not find_spec("sam2"):
        from coin_ray.confidence.sam2 import load_builder

        load_builder()
    named = {
        (path, cell.data.name): cell.config
        for cell in cells
        if (path := mask_folder(cell.config)) is not None
    }
    masks = {(path, name): _masks(config, data[name]) for (path, name), config in named.items()}
    return {name: registry.identity(name) for name in names}, masks


def _masks(config: Cell, data: DataSet) -> dict[str, str]:
    if config.predictions.path:
        from coin_ray.data.predictions import prediction_digests

        return prediction_digests(config.predictions, [s.image for s in data.samples])
    folder = config.ucis.folder or ""
    return {image.name: mask_digest(folder, image.name) for image in data.images}
