"""A contact sheet of one avatar and the numbers that go with it."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from flexavatar_cli.core.avatar import Avatar
from flexavatar_cli.core.expression import INDEX, both
from flexavatar_cli.core.flame import FLAME_NAMES
from flexavatar_cli.evaluation.quality import agreement, colour_noise, holes, psnr, shoulder_row, silhouette_iou
from flexavatar_cli.evaluation.views import View, rendered, seen_from, shown, views
from flexavatar_cli.media.images import sheet
from flexavatar_cli.stages.animation import Puppet, puppet
from flexavatar_cli.stages.encoding import best_frame
from flexavatar_cli.stages.instruments import Instruments
from flexavatar_cli.stages.motion import SMILE, with_lids
from flexavatar_cli.stages.pipeline import Made
from flexavatar_cli.stages.published import code_from_arkit
from flexavatar_cli.stages.shots import Shot
from flexavatar_cli.stages.tracking.overlay import overlays
from flexavatar_cli.stages.trajectories import turn

AZIMUTHS = 12
HIDDEN = (90, 135, 180, 225, 270)  # degrees that a frontal photo does not show
WIDTH = 1920  # pixels of the sheet; each row fills it

EXPRESSIONS: dict[str, dict[str, float]] = {
    "blink": both(eyeBlink=1),
    "smile": SMILE,
    "jaw open": {"jawOpen": 1},
    "pucker": {"mouthPucker": 1, "jawOpen": 0.1},
    "brows up": {"browInnerUp": 1, **both(browOuterUp=1, eyeWide=0.5)},
    "frown": both(browDown=1, mouthFrown=1),
    "look left": {"gazeLeftYaw": 0.4, "gazeRightYaw": 0.4},
    "tongue": {"tongueOut": 1, "jawOpen": 0.5},
}


def examine(
    made: Made, instruments: Instruments, on_step: Callable[[int, int], None] | None = None
) -> tuple[dict[str, Any], np.ndarray]:
    """The quality of an avatar in numbers, and its contact sheet [H, W, 3]."""
    shot = made.shots[0]
    (view,) = views(shot, [best_frame(shot.track)])
    before, after = (puppet(Avatar.load(path), instruments) for path in (made.encoded, made.fitted))
    total = 2 + 2 * len(HIDDEN) + AZIMUTHS + len(EXPRESSIONS)
    count = iter(range(1, total + 1))

    def tick() -> None:
        if on_step is not None:
            on_step(next(count), total)

    numbers, fronts = likeness(before, after, shot, view, tick)
    numbers |= hidden_views(before, after, tick)
    turned = around(after, tick)
    numbers["holes"] = [holes(alpha) for _, alpha in turned]
    acted = {name: act(after, weights, tick) for name, weights in EXPRESSIONS.items()}
    numbers["expression_holes"] = {name: holes(alpha) for name, (_, alpha) in acted.items()}
    change = f"before fitting ({numbers['psnr_before']:.1f} dB), after ({numbers['psnr_after']:.1f} dB)"
    rows = {
        f"input, matte, overlay, {change}": [view.rgb, view.matte, overlay(shot, view, instruments), *fronts],
        "azimuth 0 to 150 degrees": [rgb for rgb, _ in turned[: AZIMUTHS // 2]],
        "azimuth 180 to 330 degrees": [rgb for rgb, _ in turned[AZIMUTHS // 2 :]],
        ", ".join(EXPRESSIONS): [rgb for rgb, _ in acted.values()],
    }
    return numbers, np.concatenate([sheet([row], [label], WIDTH // len(row)) for label, row in rows.items()])


def likeness(
    before: Puppet, after: Puppet, shot: Shot, view: View, tick: Callable[[], None]
) -> tuple[dict[str, Any], list[np.ndarray]]:
    """PSNR inside the matte and silhouette IoU above the shoulders, before and after fitting; and both pictures."""
    numbers, pictures = {}, []
    rows = shoulder_row(view.camera)
    for name, figure in (("before", before), ("after", after)):
        rgb, alpha = rendered(figure, shot.track, view)
        numbers[f"psnr_{name}"] = psnr(rgb, view.image, view.matte * view.inside)
        numbers[f"silhouette_iou_{name}"] = silhouette_iou(alpha, view.matte, rows, view.inside)
        pictures.append(rgb)
        tick()
    return numbers, pictures


def hidden_views(before: Puppet, after: Puppet, tick: Callable[[], None]) -> dict[str, Any]:
    """What fitting did to the views that the photo does not show: agreement in dB, colour noise before and after."""
    agree, whole, noise_before, noise_after = {}, {}, {}, {}
    pairs = zip(hidden_pictures(before), hidden_pictures(after), strict=True)
    for azimuth, (one, other) in zip(HIDDEN, pairs, strict=True):
        agree[str(azimuth)], whole[str(azimuth)] = agreement(one, other), psnr(one[0], other[0])
        noise_before[str(azimuth)], noise_after[str(azimuth)] = colour_noise(*one), colour_noise(*other)
        tick()
        tick()
    return {
        "hidden_view_psnr": agree,  # over the head alone
        "hidden_view_psnr_picture": whole,  # with its white surroundings
        "colour_noise_before": noise_before,
        "colour_noise_after": noise_after,
    }


def hidden_pictures(figure: Puppet) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The resting head from the HIDDEN sides."""
    return seen_from(figure, figure.neutral, turn(np.radians(HIDDEN), 512))


def around(figure: Puppet, tick: Callable[[], None]) -> list[tuple[np.ndarray, np.ndarray]]:
    """The resting head from AZIMUTHS sides, starting at the front."""
    result = []
    for picture in seen_from(figure, figure.neutral, turn(2 * np.pi * np.arange(AZIMUTHS) / AZIMUTHS, 512)):
        result.append(picture)
        tick()
    return result


def act(figure: Puppet, weights: dict[str, float], tick: Callable[[], None]) -> tuple[np.ndarray, np.ndarray]:
    """The head from the front with some weights of its expression set."""
    if figure.expression_names == FLAME_NAMES:
        curves = np.zeros((1, len(INDEX)), np.float32)
        curves[0, [INDEX[name] for name in weights]] = list(weights.values())
        result = shown(figure, code_from_arkit(curves)[0], turn(np.zeros(1), 512))
        tick()
        return result
    code = figure.neutral
    for name, weight in weights.items():
        if name in figure.expression_names:
            code[figure.expression_names.index(name)] = weight
    if figure.expression_names == tuple(INDEX):
        code = with_lids(code[None])[0]
    result = shown(figure, code, turn(np.zeros(1), 512))
    tick()
    return result


def overlay(shot: Shot, view: View, instruments: Instruments) -> np.ndarray:
    """The tracked mesh over the input crop [S, S, 3]; the crop alone where the track is on FLAME."""
    if shot.track.expression_names == FLAME_NAMES:
        return view.rgb
    track = shot.track[np.array([view.number])]
    ours, theirs = view.camera.intrinsics, track.intrinsics
    scale = ours[0, 0, 0] / theirs[0, 0, 0]  # crop pixels per source pixel
    corner = theirs[0, :2, 2] - ours[0, :2, 2] / scale
    size = np.array([view.camera.width, view.camera.height])
    moved = replace(track, intrinsics=ours, size=size, landmarks=(track.landmarks - corner) * scale)
    return next(overlays([view.rgb], moved, instruments.head))
