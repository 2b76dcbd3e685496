"""Collars behind the neck."""

import pytest
import torch

from flexavatar_cli.heads import load_head
from flexavatar_cli.stages.collars import collars
from flexavatar_cli.stages.uv_prior import uv_prior

RESOLUTION = 128
EDGE = -0.08  # metres
SKIN, CLOTH = torch.tensor([0.8, 0.6, 0.5]), torch.tensor([0.1, 0.1, 0.3])


@pytest.fixture(scope="module")
def prior():
    head = load_head()
    return uv_prior(head, RESOLUTION, SKIN.expand(len(head.texels(RESOLUTION)), 3).contiguous())


def found(prior, cloth):  # [N] bool
    """What `collars` says of a person seen from the front whose `cloth` is cloth and all else skin."""
    color = torch.where(cloth[:, None], CLOTH, SKIN)[None]
    seen = (prior.places[:, 2] > -0.02).float()[None]
    materials = (seen * prior.on_bust, seen * prior.on_face * prior.plain_skin, torch.zeros_like(seen))
    return collars(prior.places, prior.on_neck, prior.on_bust, materials, color, seen)


def behind(prior):
    return (prior.on_neck > 0) & (prior.places[:, 2] < -0.05)


def test_a_collar_goes_round_at_the_height_that_it_has_beside_the_neck(prior):
    height = prior.places[:, 1]
    (share,), (tint,) = found(prior, (height < EDGE) & (prior.on_face == 0))
    under, above = behind(prior) & (height < EDGE - 0.008), behind(prior) & (height > EDGE + 0.008)
    assert min(under.sum(), above.sum()) > 10
    assert share[under].min() > 0.8
    assert share[above].max() < 0.1
    torch.testing.assert_close(tint[under], CLOTH.expand(int(under.sum()), 3), atol=0.01, rtol=0)


def test_a_collar_seen_on_one_side_ends_on_the_other(prior):
    x, height, _ = prior.places.T
    bare = (prior.on_face == 0) & (prior.on_bust == 0)
    (share,), _ = found(prior, (height < EDGE) & ((bare & (x > 0)) | (prior.on_bust > 0)))
    under = behind(prior) & (height < EDGE - 0.005) & (height > -0.095)
    assert share[under & (x > 0.02)].mean() > 2 * share[under & (x < -0.02)].mean()


def test_bare_necks_stay_bare(prior):
    (share,), (tint,) = found(prior, prior.places[:, 1] < -0.3)
    assert (share[:, None] * (tint - SKIN)).abs().max() < 0.01


def test_nothing_seen_says_nothing(prior):
    color, seen = SKIN.expand(1, len(prior.index), 3), torch.zeros(1, len(prior.index))
    share, tint = collars(prior.places, prior.on_neck, prior.on_bust, (seen, seen, seen), color, seen)
    assert share.max() == 0
    assert tint.isfinite().all()
