"""The edge error of avatars: made from a photo whose true alpha is known, with mattes of several nets and that one."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flexavatar_cli.core.avatar import Avatar
from flexavatar_cli.core.camera import Camera
from flexavatar_cli.core.options import FitOptions
from flexavatar_cli.media.images import to_float, write_png
from flexavatar_cli.stages import pipeline
from flexavatar_cli.stages.animation import picture, puppet
from flexavatar_cli.stages.instruments import Instruments
from flexavatar_cli.stages.matting import matte_picture
from flexavatar_cli.stages.matting.nets import Net
from flexavatar_cli.stages.motion import recoded
from flexavatar_cli.stages.observation import head_crop
from flexavatar_cli.stages.workfolder import WorkFolder
from flexavatar_cli.training.matting.composites import photographed, read_rgba
from flexavatar_cli.training.matting.measuring import hair_band, held_out_painter

CROP = 512  # pixels
NECK = -0.12  # metres, head space: below the chin, above the shoulders
TRUTH = "true alpha"  # the name of the arm that knows it


@dataclass(frozen=True)
class Subject:
    """A photo of a held-out person and what is behind."""

    name: str
    rgb: np.ndarray  # [S, S, 3]
    alpha: np.ndarray  # [S, S], exact
    ground: np.ndarray  # [S, S, 3]


def subjects(pack: Path, chosen: Sequence[str]) -> Iterator[Subject]:
    """The held-out people `chosen` as kind/number (head/3, cutout/5), as large as they are, before random grounds."""
    painter = held_out_painter(pack)
    for name in chosen:
        kind, number = name.split("/")
        person = read_rgba(painter.files[kind][int(number)]).astype(np.float32) / 255
        generator = np.random.default_rng([11, int(number), len(kind)])
        ground = painter.ground(len(person), generator)
        image = over(person[..., :3], person[..., 3], ground)
        yield Subject(name, to_float(photographed(image, generator)), person[..., 3], ground)


def edge_errors(
    subject: Subject, nets: Sequence[Net], instruments: Instruments, folder: Path, steps: int
) -> tuple[list[dict[str, object]], list[np.ndarray]]:
    """A row per net and for the true alpha, with what was seen: an avatar in the photo's own view against the truth.

    `alpha` and `colour` are mean absolute differences within 8 pixels of the true soft edge above the neck: of alpha,
    and of the avatar over the true ground from the photo.
    """
    photo = write_png(folder / "photo.png", subject.rgb)
    mattes = {net.name: matte_picture(subject.rgb, net) for net in nets} | {TRUTH: subject.alpha}
    rows: list[dict[str, object]] = []
    tiles = [subject.rgb]
    job = pipeline.Job(instruments, WorkFolder(folder))
    for number, (name, matte) in enumerate(mattes.items()):
        shot = pipeline.shoot(job, photo, write_png(folder / f"matte_{number}.png", matte))
        made = pipeline.fit_shots(job, [shot], FitOptions(steps=steps))
        camera = shot.track.camera()[0]
        crop = head_crop(camera, subject.alpha, CROP)
        camera = camera.cropped(crop)
        rgb, truth, ground = (crop.image(part, border=0.0) for part in (subject.rgb, subject.alpha, subject.ground))
        figure = puppet(Avatar.load(made.fitted), instruments)
        code = recoded(shot.track.expression_code[[0]], shot.track.expression_names, figure.expression_names)
        clear = picture(next(figure.gaussians(code)), camera, None, instruments.backend)
        shown = over(clear[..., :3], clear[..., 3], ground)
        band = hair_band(truth) & (crop.image(np.ones_like(subject.alpha), border=0.0) > 0.99)
        band[neck_row(camera) :] = False
        row = {"subject": subject.name, "net": name, "pixels": int(band.sum())}
        row["matte"] = round(float(np.abs(crop.image(matte, border=0.0) - truth)[band].mean()), 4)
        row["alpha"] = round(float(np.abs(clear[..., 3] - truth)[band].mean()), 4)
        row["colour"] = round(float(np.abs(shown - rgb)[band].mean()), 4)
        rows.append(row)
        tiles += [crop.image(matte, border=0.0), shown, np.abs(clear[..., 3] - truth) * band]
    return rows, tiles


def over(front: np.ndarray, alpha: np.ndarray, ground: np.ndarray) -> np.ndarray:
    """Colours [H, W, 3] with alpha [H, W] before a ground [H, W, 3]."""
    return front * alpha[..., None] + ground * (1 - alpha[..., None])


def neck_row(camera: Camera) -> int:
    """The picture row of the neck."""
    pixels, _ = camera.project(np.array([[0.0, NECK, 0.0]]))
    return int(np.clip(round(float(pixels[0, 0, 1])), 1, camera.height))
