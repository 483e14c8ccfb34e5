from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from coin_ray.errors import UserError
from coin_ray.propagation.backbones import Backbone, build_vit, load_backbone
from coin_ray.propagation.features import extract_features
from coin_ray.propagation.settings import Uss
from coin_ray.ucis.settings import DETECTOR
from coin_ray.weights.registry import entry, names

OFFICIAL = {
    "mae": "vit_base_patch16_224.mae",
    "dinov1": "vit_small_patch16_224.dino",
    "dinov2": "vit_small_patch14_dinov2.lvd142m",
    "dinov2_reg": "vit_small_patch14_reg4_dinov2.lvd142m",
}
FIT3D = ("mae", "dinov2", "dinov2_reg")


def load(name: str, layer: int = -1) -> Backbone:
    return load_backbone(name, layer=layer)


SMALL = {"embed_dim": 24, "depth": 2, "num_heads": 2, "img_size": 112}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with one randomly initialised file a family, in timm's own format, at a toy size.

    And other weights as the FiT3D release has them: a headless state dict, pickled by PyTorch.
    """
    from coin_ray.compat import ensure_torchvision

    ensure_torchvision()
    import timm

    folder = tmp_path_factory.mktemp("home")
    (folder / "weights").mkdir()
    rows = []
    for family, model in OFFICIAL.items():
        torch.manual_seed(0)
        built = timm.create_model(model, pretrained=False, **SMALL)
        for parameter in built.parameters():
            torch.nn.init.normal_(parameter, std=0.2)  # LayerScale starts at 1e-5 and hides blocks
        save_file(built.state_dict(), folder / "weights" / f"{family}.safetensors")
        rows.append(
            f"{family}_toy: {{file: {family}.safetensors, licence: none, size_mb: 1, "
            f"build: {{model: {model}, overrides: {SMALL}}}}}\n"
        )
    for family in FIT3D:
        torch.manual_seed(1)
        built = timm.create_model(OFFICIAL[family], pretrained=False, num_classes=0, **SMALL)
        torch.save(built.state_dict(), folder / "weights" / f"{family}_finetuned.pth")
        rows.append(
            f"{family}_toy_fit3d: {{file: {family}_finetuned.pth, licence: none, size_mb: 1, "
            f"build: {{model: {OFFICIAL[family]}, overrides: {SMALL}}}}}\n"
        )
    (folder / "registry.yaml").write_text("".join(rows).replace("'", ""))
    return folder


@pytest.fixture(autouse=True)
def use(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COIN_RAY_HOME", str(home))


def reference(family: str, home: Path) -> torch.nn.Module:
    import timm

    model = timm.create_model(OFFICIAL[family], pretrained=False, **SMALL)
    from safetensors.torch import load_file

    model.load_state_dict(load_file(home / "weights" / f"{family}.safetensors"))
    return model.eval()


@pytest.mark.parametrize("family", OFFICIAL)
def test_tokens_are_the_normalised_last_block_without_prefix(family: str, home: Path) -> None:
    backbone = load(f"{family}_toy")
    model = reference(family, home)
    batch = torch.randn(2, 3, 112, 112, generator=torch.Generator().manual_seed(1))
    seen: list[torch.Tensor] = []
    model.norm.register_forward_hook(lambda module, inputs, output: seen.append(output))
    with torch.inference_mode():
        model.forward_features(batch)
    side = 112 // backbone.patch
    prefix = 5 if family == "dinov2_reg" else 1
    assert seen[0].shape[1] == prefix + side * side
    found = backbone.tokens(batch)
    assert found.shape == (2, 24, side, side)
    assert backbone.dim == 24
    # token (row 1, column 2) is number `side + 2` after the prefix
    torch.testing.assert_close(found[:, :, 1, 2], seen[0][:, prefix + side + 2], rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", FIT3D)
def test_fine_tuned_weights_fill_the_same_architecture(family: str, home: Path) -> None:
    import timm

    model = timm.create_model(OFFICIAL[family], pretrained=False, num_classes=0, **SMALL).eval()
    state = torch.load(home / "weights" / f"{family}_finetuned.pth", weights_only=True)
    model.load_state_dict(state)
    batch = torch.randn(1, 3, 112, 112, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        tokens = model.forward_features(batch)[:, model.num_prefix_tokens :]
    found = load(f"{family}_toy_fit3d").tokens(batch)
    torch.testing.assert_close(found.flatten(2).transpose(1, 2), tokens, rtol=0, atol=1e-5)
    assert (found - load(f"{family}_toy").tokens(batch)).abs().max() > 0.1


def test_fine_tuned_weights_that_nobody_released_are_unknown() -> None:
    with pytest.raises(UserError, match="dinov1_toy_fit3d"):
        load("dinov1_toy_fit3d")


@pytest.mark.parametrize("name", [n for n in names() if n.endswith("_fit3d")])
def test_registered_fine_tuned_weights_are_named_after_the_plain_ones(name: str) -> None:
    weights, plain = entry(name), entry(name.removesuffix("_fit3d"))
    assert weights.build == plain.build
    assert weights.sha256 and len(weights.sha256) == 64
    assert weights.url and weights.url.startswith("https://huggingface.co/yuanwenyue/FiT3D/")


@pytest.mark.parametrize("family", OFFICIAL)
def test_an_earlier_block_is_normalised_by_the_final_norm(family: str, home: Path) -> None:
    model = reference(family, home)
    batch = torch.randn(1, 3, 112, 112, generator=torch.Generator().manual_seed(1))
    outputs: list[torch.Tensor] = []
    for block in model.blocks:
        block.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    with torch.inference_mode():
        model.forward_features(batch)
        expected = [model.norm(out)[:, model.num_prefix_tokens :] for out in outputs]
    for layer in (-1, -2):
        found = load(f"{family}_toy", layer=layer).tokens(batch)
        flat = found.flatten(2).transpose(1, 2)
        torch.testing.assert_close(flat, expected[layer], rtol=0, atol=1e-5)
    assert (expected[0] - expected[1]).abs().max() > 1e-2
    with pytest.raises(UserError, match=r"-2 .its first block. to -1"):
        load(f"{family}_toy", layer=-3)


@pytest.mark.parametrize("family", OFFICIAL)
def test_another_input_size_resamples_the_position_embedding(family: str) -> None:
    backbone = load(f"{family}_toy")
    batch = torch.zeros(1, 3, 3 * backbone.patch, 5 * backbone.patch)
    found = backbone.tokens(batch)
    assert found.shape == (1, 24, 3, 5)
    assert found.isfinite().all()
    # on a constant input only the position embedding can tell tokens apart
    assert (found[..., 0, 0] - found[..., 2, 4]).abs().max() > 1e-3


@pytest.mark.parametrize("family", OFFICIAL)
def test_features_of_an_image_through_the_registry(family: str) -> None:
    image = np.random.default_rng(0).integers(0, 256, (50, 60, 3), dtype=np.uint8)
    features = extract_features(image, load(f"{family}_toy"), Uss(), zoom=4, batch=8)
    assert features.window == (12, 12)
    tokens = features.to_arrays()["tokens"]
    assert tokens.shape[1:] == (24, *(2 * [-(-48 // load(f"{family}_toy").patch)]))
    assert np.isfinite(tokens.astype(float)).all()


def test_the_model_is_kept_and_read_again_when_the_file_changes(home: Path) -> None:
    path = home / "weights" / "mae.safetensors"
    before = path.read_bytes()
    first = load("mae_toy")
    assert load("mae_toy") is first
    from safetensors.torch import load_file

    state = load_file(path)
    state["norm.bias"] = state["norm.bias"] + 1
    save_file(state, path)
    try:
        changed = load("mae_toy")
        batch = torch.zeros(1, 3, 32, 32)
        torch.testing.assert_close(changed.tokens(batch), first.tokens(batch) + 1)
    finally:
        path.write_bytes(before)


def test_inputs_are_normalised_as_timm_says() -> None:
    backbone = load("mae_toy")
    assert backbone.mean == (0.485, 0.456, 0.406)
    assert backbone.std == (0.229, 0.224, 0.225)


def test_a_file_of_another_model_is_refused(home: Path) -> None:
    rows = (home / "registry.yaml").read_text()
    wrong = rows.splitlines()[0].replace("mae_toy", "wrong_toy").replace("depth: 2", "depth: 3")
    wider = rows.splitlines()[0].replace("mae_toy", "wider_toy").replace("dim: 24", "dim: 48")
    (home / "registry.yaml").write_text(rows + wrong + "\n" + wider + "\n")
    with pytest.raises(UserError, match=r"Missing[^\n]*blocks\.2"):
        load("wrong_toy")
    with pytest.raises(UserError, match=r"\[1, 1, 24\][^\n]*\[1, 1, 48\]"):
        load("wider_toy")
    (home / "registry.yaml").write_text(rows)


@pytest.mark.parametrize(
    "name", [n for n in names() if n.endswith("_mini") and not n.startswith(("sam_", DETECTOR))]
)
def test_the_mini_architectures(name: str) -> None:
    build = entry(name).build
    model, _ = build_vit(build["model"], build["overrides"])
    assert 2e6 < sum(p.numel() for p in model.parameters()) < 3e6
    assert model.num_prefix_tokens == (5 if "reg" in name else 1)
    assert model.patch_embed.patch_size == (16, 16)
    assert model.pos_embed.shape[1] == (256 if "reg" in name else 257)
