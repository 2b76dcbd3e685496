"""The head is drawn where the track says it is."""

import numpy as np

from flexavatar_cli.stages import tracking
from flexavatar_cli.stages.tracking.overlay import overlays


def test_overlay_covers_the_face_and_spares_missing_frames(faces, model, head):
    seen = np.tile(faces(np.zeros((1, 3)), np.zeros((1, 52)), np.zeros(model.modes)), (2, 1, 1))
    seen[1] = np.nan
    track = tracking.track_landmarks(seen, (512, 512), focal_px=1400, head=head)
    white = np.ones((512, 512, 3), np.float32)
    drawn = list(overlays([white, white], track, head))
    x, y = seen[0, 4].astype(int)
    assert drawn[0].shape == white.shape
    assert drawn[0][y - 3 : y + 3, x - 3 : x + 3].mean() < 0.95
    np.testing.assert_array_equal(drawn[0][:5, :5], white[:5, :5])
    np.testing.assert_array_equal(drawn[1], white)


def test_large_frames_are_shrunk_for_drawing(faces, model, head):
    seen = 4 * faces(np.zeros((1, 3)), np.zeros((1, 52)), np.zeros(model.modes))
    track = tracking.track_landmarks(seen, (2048, 2048), head=head)
    assert next(overlays([np.ones((2048, 2048, 3), np.float32)], track, head)).shape == (1024, 1024, 3)
