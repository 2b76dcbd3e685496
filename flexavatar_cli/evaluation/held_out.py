"""How well an avatar shows frames that it was not fitted to."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from flexavatar_cli.core.avatar import Avatar
from flexavatar_cli.core.track import Track
from flexavatar_cli.evaluation.quality import psnr
from flexavatar_cli.evaluation.views import rendered, views
from flexavatar_cli.stages.animation import puppet
from flexavatar_cli.stages.instruments import Instruments
from flexavatar_cli.stages.shots import Shot


def held_out_frames(track: Track, hold_out: int) -> list[int]:
    """The frames with a face that `FitOptions.hold_out` keeps from fitting: the last of every `hold_out`."""
    numbers = np.flatnonzero(track.confidence > 0)
    return numbers[numbers % hold_out == hold_out - 1].tolist() if hold_out else []


def held_out_psnr(
    avatar: Path,
    shots: Sequence[Shot],
    hold_out: int,
    instruments: Instruments,
    on_step: Callable[[int, int], None] | None = None,
) -> dict[str, float | int | None]:
    """Mean and worst PSNR inside the matte, in dB, over the held-out frames of all shots."""
    figure = puppet(Avatar.load(avatar), instruments)
    found: list[float] = []
    total = sum(len(held_out_frames(shot.track, hold_out)) for shot in shots)
    for shot in shots:
        for view in views(shot, held_out_frames(shot.track, hold_out)):
            rgb, _ = rendered(figure, shot.track, view)
            found.append(psnr(rgb, view.image, view.matte * view.inside))
            if on_step is not None:
                on_step(len(found), total)
    mean, worst = (float(np.mean(found)), float(np.min(found))) if found else (None, None)
    return {"held_out_frames": total, "held_out_psnr": mean, "held_out_psnr_worst": worst}
