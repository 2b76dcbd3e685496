from dataclasses import replace

import numpy as np
import pytest

from flexavatar_cli.core.avatar import Avatar
from flexavatar_cli.core.errors import InputError, UsageError, WeightsError
from flexavatar_cli.stages.interpolation import interpolated, morph, morph_frames


def somebody(seed: int) -> Avatar:
    rng = np.random.default_rng(seed)
    return Avatar(
        avatar_code=rng.standard_normal((16, 8), np.float32),
        identity=rng.standard_normal(5, np.float32),
        model="open-1",
        model_digest="ab" * 32,
        head_model="open-head",
        head_digest="cd" * 32,
        expression_names=("jawOpen", "eyeBlinkLeft"),
        bias_sink="3d",
        thumbnail=b"a picture of this person",
        provenance={"inputs": {"photo.jpg": "ef" * 32}},
    )


def test_the_ends_are_the_two_people():
    first, second = somebody(1), somebody(2)
    for share, end in ((0, first), (1, second)):
        between = interpolated(first, second, share)
        np.testing.assert_array_equal(between.avatar_code, end.avatar_code)
        np.testing.assert_array_equal(between.identity, end.identity)


def test_the_middle_is_the_mean_whichever_comes_first():
    first, second = somebody(1), somebody(2)
    one, other = interpolated(first, second, 0.25), interpolated(second, first, 0.75)
    np.testing.assert_array_equal(one.avatar_code, other.avatar_code)
    np.testing.assert_allclose(one.identity, 0.75 * first.identity + 0.25 * second.identity, rtol=1e-6)


def test_provenance_names_both_and_no_photo_is_claimed():
    first, second = somebody(1), somebody(2)
    between = interpolated(first, second, 0.5)
    assert between.provenance == {"interpolation": {"first": first.digest, "second": second.digest, "share": 0.5}}
    assert (between.camera, between.thumbnail) == (None, b"")


@pytest.mark.parametrize(
    ("change", "error", "word"),
    [
        ({"model_digest": "00" * 32}, WeightsError, "different models"),
        ({"head_digest": "00" * 32}, WeightsError, "head models"),
        ({"bias_sink": "2d"}, InputError, "bias sinks"),
        ({"expression_names": ("jawOpen", "eyeBlinkRight")}, InputError, "expressions"),
        ({"identity": np.zeros(4, np.float32)}, InputError, "size"),
    ],
)
def test_avatars_that_cannot_be_mixed_are_refused(change, error, word):
    with pytest.raises(error, match=word):
        interpolated(somebody(1), replace(somebody(2), **change), 0.5)


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan")])
def test_the_share_lies_between_the_two(share):
    with pytest.raises(UsageError, match="outside"):
        interpolated(somebody(1), somebody(2), share)


def test_a_morph_goes_there_and_back_and_moves(tiny_instruments, grey_avatar):
    wide = replace(grey_avatar, identity=grey_avatar.identity + np.float32(0.5))
    pictures = list(morph(grey_avatar, wide, tiny_instruments, 1.0, 48))
    still = list(morph(grey_avatar, grey_avatar, tiny_instruments, 1.0, 48))
    assert len(pictures) == morph_frames(1.0) == 6
    np.testing.assert_array_equal(pictures[0], still[0])
    assert np.abs(pictures[3] - still[3]).mean() > 1e-3
    assert np.abs(still[1] - still[0]).mean() > 1e-3
