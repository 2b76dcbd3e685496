"""Quaternions of any norm."""

import pytest
import torch

from flexavatar_cli.core.gaussians import rotation_matrix


@pytest.mark.parametrize("norm", [6e-36, 1e-18, 5e-13, 1e-3, 1.0, 1e6])
def test_a_quaternions_norm_does_not_matter(norm):
    unit = torch.tensor([0.1, -0.7, 0.5, 0.5])
    turned = rotation_matrix(norm * unit)
    torch.testing.assert_close(turned, rotation_matrix(unit), atol=1e-6, rtol=0)
    torch.testing.assert_close(turned @ turned.mT, torch.eye(3), atol=1e-6, rtol=0)


def test_the_zero_quaternion_does_not_turn():
    zero = torch.zeros(4, requires_grad=True)
    turned = rotation_matrix(zero)
    assert torch.equal(turned, torch.eye(3))
    turned.sum().backward()
    assert zero.grad.isfinite().all()
