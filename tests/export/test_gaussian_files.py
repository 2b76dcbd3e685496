"""Gaussian files hold what went in."""

import numpy as np
import pytest
import torch

from flexavatar_cli.core.errors import UsageError
from flexavatar_cli.core.gaussians import Gaussians
from flexavatar_cli.export.gaussian_files import SH_DC, SPLAT, save_gaussians


@pytest.fixture
def gaussians():
    random = torch.Generator().manual_seed(0)
    return Gaussians(
        torch.randn(7, 3, generator=random),
        torch.randn(7, 4, generator=random),
        torch.rand(7, 3, generator=random) + 0.1,
        torch.rand(7, generator=random),
        torch.rand(7, 3, generator=random),
    )


def test_npz_round_trip(tmp_path, gaussians):
    with np.load(save_gaussians(gaussians, tmp_path / "head.npz")) as found:
        assert found["positions"] == pytest.approx(gaussians.positions.numpy())
        assert np.linalg.norm(found["quats"], axis=1) == pytest.approx(np.ones(7))
        assert found["opacities"].shape == (7,)


def test_ply_means_what_viewers_think(tmp_path, gaussians):
    content = save_gaussians(gaussians, tmp_path / "head.ply").read_bytes()
    header, body = content.split(b"end_header\n", 1)
    names = [line.split()[-1].decode() for line in header.splitlines() if line.startswith(b"property float")]
    table = dict(zip(names, np.frombuffer(body, "<f4").reshape(7, -1).T, strict=True))
    assert table["y"] == pytest.approx(gaussians.positions[:, 1].numpy())
    assert np.exp(table["scale_2"]) == pytest.approx(gaussians.scales[:, 2].numpy(), rel=1e-5)
    assert 1 / (1 + np.exp(-table["opacity"])) == pytest.approx(gaussians.opacities.numpy(), abs=1e-5)
    assert 0.5 + SH_DC * table["f_dc_0"] == pytest.approx(gaussians.colors[:, 0].numpy(), abs=1e-6)


def test_splat_holds_each_gaussian_in_32_bytes_largest_first(tmp_path, gaussians):
    content = save_gaussians(gaussians, tmp_path / "head.splat").read_bytes()
    assert len(content) == 32 * len(gaussians)
    table = np.frombuffer(content, SPLAT)
    order = torch.argsort(-gaussians.scales.prod(1) * gaussians.opacities).numpy()
    assert table["position"] == pytest.approx(gaussians.positions.numpy()[order])
    assert table["scale"] == pytest.approx(gaussians.scales.numpy()[order])
    assert table["rgba"][:, 3] / 255 == pytest.approx(gaussians.opacities.numpy()[order], abs=0.5 / 255 + 1e-6)
    quats = torch.nn.functional.normalize(gaussians.quats, dim=1).numpy()[order]
    assert (table["quat"].astype(float) - 128) / 128 == pytest.approx(quats, abs=1 / 128)


def test_other_suffixes_are_refused(tmp_path, gaussians):
    with pytest.raises(UsageError, match="spz"):
        save_gaussians(gaussians, tmp_path / "head.spz")
    assert not list(tmp_path.iterdir())
