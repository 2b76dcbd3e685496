"""A draft: what photo and matte do not say."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from flexavatar_cli.core.camera import Camera, look_at
from flexavatar_cli.stages.draft import AHEAD, BRIGHTER, BURIED, TEETH, Draft
from flexavatar_cli.stages.encoding import load_prior
from flexavatar_cli.stages.observation import Observation

SIZE = 96


@pytest.fixture(scope="module")
def draft(tiny_instruments) -> Draft:
    """Of a grey picture without a face in it."""
    focal = SIZE / 0.4
    matrix = np.array([[focal, 0, SIZE / 2], [0, focal, SIZE / 2], [0, 0, 1]])
    camera = Camera(look_at(np.array([0, 0, 1.0]), np.zeros(3)), matrix[None], SIZE, SIZE)
    full, who = np.full((SIZE, SIZE), 255, np.uint8), np.zeros(len(tiny_instruments.head.identity_basis), np.float32)
    seen = Observation(np.full((SIZE, SIZE, 3), 128, np.uint8), full, full, camera, who, np.zeros(59, np.float32))
    return Draft(seen, load_prior(tiny_instruments), tiny_instruments, "3d")


def test_teeth_that_are_not_seen_get_the_hue_of_teeth(draft):
    grid = draft.head.texels(draft.model.resolution)
    teeth = (grid.part == draft.head.part_names.index("teeth")) & (draft.found.seen == 0)
    before = draft.attributes().color[0]
    draft.whiten_teeth()
    after = draft.attributes().color[0]
    assert teeth.sum() > 20
    hue = after[teeth] / after[teeth].sum(1, keepdim=True)
    own = before[teeth] / before[teeth].sum(1, keepdim=True)
    wanted = torch.tensor(TEETH) / sum(TEETH)
    assert (hue - wanted).abs().mean() < 0.5 * (own - wanted).abs().mean()
    far = grid.part == draft.head.part_names.index("scalp")
    assert (after - before)[far].abs().mean() < 0.05 * (after - before)[teeth].abs().mean()


def test_folds_of_ears_darken_where_no_photo_shows_them(draft, monkeypatch):
    light = draft.head.ear_light.reshape(128, 2, 128, 2).mean((1, 3)).flatten()[draft.prior.index]
    left = draft.prior.places[:, 0] > 0
    with monkeypatch.context() as only:
        # bare skin all over, of which the photo shows the front and one ear
        seen = ((light == 1) | left).float()
        only.setattr(draft, "found", replace(draft.found, seen=seen, displacement=torch.zeros_like(seen)))
        only.setattr(draft, "code", draft.code)
        before = draft.attributes().color[0]
        draft.shade_ears()
        after = draft.attributes().color[0]
    folds = light < 0.8
    mirrored = after[folds & ~left].mean() / before[folds & ~left].mean()
    assert folds.sum() > 20
    assert (after - before)[seen == 1].abs().mean() < 1e-3
    assert 0.8 < mirrored < 0.97  # the other side shows most of them

    with monkeypatch.context() as only:
        only.setattr(draft, "found", replace(draft.found, seen=0 * seen, displacement=torch.zeros_like(seen)))
        only.setattr(draft, "code", draft.code)
        draft.shade_ears()
        unseen = draft.attributes().color[0]
    assert unseen[folds].mean() < 0.85 * before[folds].mean()
    assert (unseen[folds, 0] / before[folds, 0]).mean() > (unseen[folds, 2] / before[folds, 2]).mean()


def test_edges_that_no_photo_shows_are_softened_and_what_it_shows_is_not(draft, monkeypatch):
    grid = draft.head.texels(draft.model.resolution)
    neck = grid.part == draft.head.part_names.index("neck")
    seen = (draft.prior.places[:, 0] > 0).float()
    with monkeypatch.context() as only:
        only.setattr(draft, "found", replace(draft.found, seen=seen))
        only.setattr(draft, "code", draft.code)
        stripes = torch.where(draft.prior.places[:, 1] % 0.02 < 0.01, 0.3, -0.3)
        draft._add(color=stripes[:, None].expand(-1, 3))
        before = draft.attributes().color[0]
        draft.soften_unseen()
        change = (draft.attributes().color[0] - before).abs().mean(1)
    assert change[neck & (seen == 0)].mean() > 5 * change[neck & (seen == 1)].mean()


def test_hair_that_turns_away_gets_no_light_flecks(draft, monkeypatch):
    """A white picture before a grey avatar: what is surely seen takes the white, hair unseen or grazed little of it."""
    white = replace(draft.seen, image=np.full_like(draft.seen.image, 255))
    scalp, found = draft.prior.on_scalp > 0.9, draft.found
    front = scalp & (draft.prior.outward[:, 2] > 0.3)
    changes = []
    for shown, facing in ((1.0, 0.9), (0.0, 0.9), (1.0, 0.25)):
        seen, cosine = torch.where(scalp, shown, found.seen), torch.where(scalp, facing, found.facing)
        with monkeypatch.context() as only:
            only.setattr(draft, "seen", white)
            only.setattr(draft, "code", draft.code)
            only.setattr(draft, "found", replace(found, seen=seen, facing=cosine))
            before = draft.attributes().color[0]
            draft.back_project()
            changes.append((draft.attributes().color[0] - before)[front].mean())
    sure, unseen, grazed = changes
    assert sure > 0.4
    assert unseen < BRIGHTER
    assert grazed < 0.2 * sure


def test_the_back_of_clothes_and_neck_is_not_painted_from_in_front(draft):
    open_to = draft._uncovered()
    clothed = (draft.prior.on_bust > 0) | (draft.prior.on_neck > 0)
    facing = draft.prior.outward[:, 2]
    assert open_to[clothed & (facing < -0.5)].max() == 0
    assert open_to[(draft.prior.on_bust > 0) & (facing > 0)].min() == 1
    assert open_to[(draft.prior.on_scalp > 0) & (facing < -0.5)].min() == 1  # hair's rim peeps out


def test_corrections_that_are_doubted_are_evened_and_others_are_not(draft, monkeypatch):
    neck = draft.prior.on_neck > 0
    specks = 0.3 * neck * (torch.rand(len(neck), generator=torch.Generator().manual_seed(0)) < 0.09)
    added = []
    with monkeypatch.context() as only:
        only.setattr(draft, "_add", lambda color: added.append(color[:, 0]))  # which is coarse in a tiny model
        begin = draft.attributes().color[0] - specks[:, None]
        for doubted in (torch.zeros_like(specks), neck.float()):
            draft._even(begin, doubted)
    assert added[0].abs().max() == 0
    assert (specks + added[1]).abs().sum() < 0.3 * specks.sum()


def test_the_face_seen_from_in_front_is_not_doubted(draft):
    doubted = draft._doubted()
    assert doubted[draft.found.facing > 0.6].max() == 0
    assert doubted[(draft.prior.on_face > 0) & (draft.prior.outward[:, 2] > 0.9)].max() == 0
    assert doubted[draft.prior.interior].max() == 0
    assert doubted[(draft.prior.on_neck > 0) & (draft.found.facing == 0)].min() == 1


def test_hair_is_coloured_by_hair_where_no_photo_shows_it(draft, monkeypatch):
    """Two thirds of what is seen where others have hair is a forehead."""
    prior = draft.prior
    seen = (prior.places[:, 2] > 0).float()
    height = prior.places[:, 1]
    dark = (prior.on_scalp > 0) & (height > height[(prior.on_scalp > 0) & (seen > 0)].quantile(0.66))
    color = torch.where(dark[:, None], 0.08, torch.tensor([0.62, 0.45, 0.38]))
    with monkeypatch.context() as only:
        only.setattr(draft, "code", draft.code)
        found = replace(draft.found, seen=seen, color=color, displacement=0.02 * prior.on_scalp)
        only.setattr(draft, "found", found)
        before = draft.attributes().color[0]
        draft.color_hair()
        change = draft.attributes().color[0] - before
    back = (prior.on_scalp > 0.9) & (prior.places[:, 2] < -0.02)
    assert change[back].mean() < -0.1
    assert change[(prior.on_face > 0) & (seen == 1)].abs().mean() < 0.01


def test_hair_over_ears_has_the_colour_of_the_hair_around_and_bare_ears_keep_theirs(draft, monkeypatch):
    ear = draft.prior.on_ear > 0
    reddish = torch.where(ear[:, None], torch.tensor([0.3, 0.1, 0.1]), 0.1)
    attributes = replace(draft.attributes(), color=reddish[None])
    added = []
    with monkeypatch.context() as only:
        only.setattr(draft, "attributes", lambda: attributes)
        only.setattr(draft, "_add", lambda color: added.append(color))
        for height in (0.03, 0.0):
            displacement = torch.full_like(draft.found.seen, height)
            only.setattr(draft, "found", replace(draft.found, seen=0 * displacement, displacement=displacement))
            draft.color_ears()
    hairy, bare = added
    torch.testing.assert_close((reddish + hairy)[ear], torch.full((int(ear.sum()), 3), 0.1), atol=5e-3, rtol=0)
    assert hairy[~ear].abs().max() == 0
    assert bare.abs().max() == 0


def test_what_of_a_buried_ear_faces_ahead_is_not_lifted(draft, monkeypatch):
    ear, facing = draft.prior.on_ear > 0, draft.prior.outward[:, 2]
    ahead, aside = ear & (facing > AHEAD[1]), ear & (facing < AHEAD[0])
    added = []
    with monkeypatch.context() as only:
        only.setattr("flexavatar_cli.stages.draft.outline_correction", lambda *_: np.zeros(len(ear)))
        only.setattr(draft, "_add", lambda displacement: added.append(displacement))
        for height in (BURIED[1], BURIED[0]):
            lift = np.full(len(ear), height, np.float32)
            only.setattr(draft, "lifted", lambda lift=lift: lift)
            draft.meet_outline()
    _, buried, _, bare = added
    assert min(ahead.sum(), aside.sum()) > 10
    torch.testing.assert_close(buried[ahead], torch.full((int(ahead.sum()),), -BURIED[1]))
    assert buried[aside].abs().max() == 0
    assert buried[~ear].abs().max() == 0
    assert bare.abs().max() == 0
