"""The rig's quick forward pass says what the one in torch says."""

import pytest
import torch

from flexavatar_cli.core.attributes import TexelAttributes
from flexavatar_cli.core.gaussians import rotation_matrix
from flexavatar_cli.heads import load_head
from flexavatar_cli.stages.posing import pose_of
from flexavatar_cli.stages.rig import rig_anchor, rigged_gaussians


@pytest.mark.parametrize("spread", [0.0, 0.002])
def test_both_rigs_agree(spread):
    """Positions to a micrometre, covariances to 1e-3 of the largest in all but a few texels (ties of equal axes)."""
    generator = torch.Generator().manual_seed(0)
    anchor = rig_anchor(load_head(), 96)
    count = len(anchor.head.texels(96))

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    attributes = TexelAttributes(
        offset=spread * noise(1, count, 3),
        scale=(0.2 * noise(1, count, 3)).exp(),
        rotation=torch.nn.functional.normalize(torch.tensor([1.0, 0, 0, 0]) + 0.3 * noise(1, count, 4), dim=-1),
        opacity=torch.rand(1, count, generator=generator),
        color=torch.rand(1, count, 3, generator=generator),
    )
    identity = noise(len(anchor.head.identity_basis))
    expression = torch.rand(59, generator=generator) * 0.4
    theirs = rigged_gaussians(anchor, attributes, identity, expression)
    one = {name: value[0] for name, value in vars(attributes).items()}
    ours = pose_of(anchor, identity).gaussians(expression, **one)
    torch.testing.assert_close(ours.positions, theirs.positions, atol=1e-6, rtol=0)
    spreads = [rotation_matrix(head.quats) * head.scales[:, None] for head in (ours, theirs)]
    ours_squared, theirs_squared = (spread @ spread.mT for spread in spreads)
    off = (ours_squared - theirs_squared).abs().amax((-2, -1)) / theirs_squared.abs().amax((-2, -1))
    assert (off < 1e-3).float().mean() > 0.995
    assert ours.opacities is one["opacity"]
    torch.testing.assert_close(ours.colors, theirs.colors)
