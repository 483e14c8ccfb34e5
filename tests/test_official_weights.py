"""The paper's models through the same code: only the profile changes when their weights are there.

No official weight can be had where these tests run, so the files are written here in the official
formats from randomly initialised models. What comes out is checked for being complete, never for
being good, and is reported nowhere.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from coin_ray.data.dataset import DataSet
from coin_ray.data.synthetic import generated_samples
from coin_ray.pipeline.runner import open_local, run_local
from coin_ray.planning.plan import plan_cells
from coin_ray.study.command_line import Request
from coin_ray.study.study import resolve

BACKBONES = {
    "mae": "vit_base_patch16_224.mae",
    "dinov1": "vit_base_patch16_224.dino",
    "dinov2": "vit_base_patch14_dinov2.lvd142m",
    "dinov2_reg": "vit_base_patch14_reg4_dinov2.lvd142m",
}
NARROW = {"embed_dim": 24, "depth": 2, "num_heads": 2}
QUICK = (
    "student.arch=unet", "student.width=8", "student.iterations=2", "student.batch=2",
    "student.crop=64", "crf.enabled=false", "infer.crf=false", "rounds.count=1",
    "infer.scales=[1.0]", "sam.model=vit_b", "uss.zoom=2",
)  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A COIN_RAY_HOME with the four families (timm safetensors, narrow), FiT3D's MAE and SAM ViT-B
    (.pth)."""
    from coin_ray.compat import ensure_torchvision

    ensure_torchvision()
    import timm
    from segment_anything import sam_model_registry

    folder = tmp_path_factory.mktemp("home")
    (folder / "weights").mkdir()
    rows = []
    for family, model in BACKBONES.items():
        state = timm.create_model(model, pretrained=False, **NARROW).state_dict()
        save_file(state, folder / "weights" / f"{model}.safetensors")
        rows.append(
            f"{family}_base: {{file: {model}.safetensors, licence: none, size_mb: 1, "
            f"build: {{model: {model}, overrides: {NARROW}}}}}\n".replace("'", "")
        )
    fine_tuned = timm.create_model(BACKBONES["mae"], pretrained=False, num_classes=0, **NARROW)
    torch.save(fine_tuned.state_dict(), folder / "weights" / "mae_base_finetuned.pth")
    rows.append(rows[0].replace("mae_base", "mae_base_fit3d"))
    rows[-1] = rows[-1].replace(f"{BACKBONES['mae']}.safetensors", "mae_base_finetuned.pth")
    torch.save(sam_model_registry["vit_b"]().state_dict(), folder / "weights" / "sam_vit_b.pth")
    rows.append("sam_vit_b: {file: sam_vit_b.pth, licence: none, size_mb: 375, ")
    rows.append("build: {model: vit_b}}\n")
    (folder / "registry.yaml").write_text("".join(rows))
    return folder


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_backbone_study_runs_on_official_files(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COIN_RAY_HOME", str(home))
    study = resolve("ablations/uss_backbones.yaml", Request(profile="coin", settings=QUICK))
    samples = generated_samples(tmp_path / "tiles", 1, size=96, seed=5)
    data = DataSet(train=tuple(s.image for s in samples), samples=tuple(samples))
    cells = [cell for cell in study.cells if cell.seed == 0]
    assert {cell.config.uss.size for cell in cells} == {"base"}
    plan = plan_cells(cells, {cell.data.name: data for cell in cells}, tmp_path)
    assert set(plan.weights) == {"sam_vit_b", *(f"{family}_base" for family in BACKBONES)}
    for cell in cells:
        run = open_local(cell.config, cell.seed, data.train, tmp_path)
        rows, _ = run_local(run, data.samples)
        assert {r["step"] for r in rows} == {"ucis", "step1", "pseudo_labels", "round_1"}
    again = plan_cells(cells, {cell.data.name: data for cell in cells}, tmp_path)
    assert again.to_compute == {}
    study = resolve("ablations/uss_backbones.yaml", Request(profile="official", settings=QUICK))
    (cell,) = [c for c in study.cells if c.config.uss.family == "mae" and c.seed == 1]
    plan = plan_cells([cell], {cell.data.name: data}, tmp_path)
    assert set(plan.weights) == {"sam_vit_b", "mae_base_fit3d"}
    assert plan.to_compute["features"] == len(samples)  # not those of the plain weights
    rows, _ = run_local(open_local(cell.config, cell.seed, data.train, tmp_path), data.samples)
    assert all(r["value"] >= 0 for r in rows if r["metric"] == "aji")


def test_missing_weights_stop_a_study_before_it_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from coin_ray.errors import UserError

    monkeypatch.setenv("COIN_RAY_HOME", str(tmp_path / "empty"))
    study = resolve("ablations/uss_backbones.yaml", Request(profile="coin"))
    samples = generated_samples(tmp_path / "tiles", 1, size=96, seed=5)
    data = DataSet(train=tuple(s.image for s in samples), samples=tuple(samples))
    with pytest.raises(UserError, match=r"models fetch[\s\S]*--profile mini"):
        plan_cells(study.cells, {cell.data.name: data for cell in study.cells}, tmp_path)
    assert not (tmp_path / "store").exists()
    study = resolve("ablations/uss_backbones.yaml", Request(profile="official"))
    fetch = r"models fetch dinov1_base dinov2_base_fit3d dinov2_reg_base mae_base_fit3d "
    with pytest.raises(UserError, match=fetch):
        plan_cells(study.cells, {cell.data.name: data for cell in study.cells}, tmp_path)
