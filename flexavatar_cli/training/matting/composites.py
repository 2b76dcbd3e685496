"""Training pictures: people before random grounds, with what cameras and codecs do to them."""

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from flexavatar_cli.core.errors import InputError
from flexavatar_cli.media.images import to_float
from flexavatar_cli.stages.matting.nets import Probability, guide_of, selfie
from flexavatar_cli.training.matting.cutouts import UNKNOWN, is_held_out
from flexavatar_cli.training.matting.grounds import behind, cluttered, painted

KINDS = ("cutout", "head", "portrait")
SHARES = {"cutout": 0.24, "head": 0.38, "portrait": 0.2, "pasted": 0.18}
EDGES = {"cutout": 0.36, "head": 0.42, "portrait": 0.22}  # of pictures that edges are learnt from
CLUTTERED, CAMOUFLAGED = 0.5, 0.2  # shares of training's grounds
LEAST_FOOT = 0.25  # of the lower edge's pixels are the person's, in portraits to cut out
MOST_UNKNOWN = 0.2  # of their pixels
BAND = 1 / 40  # half width of the detail branch's band, share of the picture's side (MODNet: 15 of 512)


@dataclass(frozen=True)
class Sample:
    """One picture of S pixels and what is known of it."""

    image: np.ndarray  # [S, S, 3] uint8
    alpha: np.ndarray  # [S, S] float32
    known: np.ndarray  # [S, S] float32, 0 = no loss
    band: np.ndarray  # [S, S] float32, 1 near soft edges of exact mattes
    contrast: np.ndarray  # [S, S] float32, |foreground - ground|

    def tensors(self, segmenter: Probability | None = None) -> tuple[Tensor, Tensor]:
        """The picture [3, S, S] in -1..1, and alpha, known, band, contrast, guide [5, S, S]; the guide may be 0."""
        image = torch.from_numpy(self.image.transpose(2, 0, 1).astype(np.float32) / 127.5 - 1)
        guide = np.zeros_like(self.alpha) if segmenter is None else guide_of(segmenter(to_float(self.image)))
        truth = np.stack([self.alpha, self.known, self.band, self.contrast, guide])
        return image, torch.from_numpy(truth.astype(np.float32))


def read_rgba(path: Path) -> np.ndarray:
    """The RGBA pixels [H, W, 4] uint8 of a file of the pack. Raises InputError."""
    picture = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if picture is None or picture.ndim != 3 or picture.shape[2] != 4:
        raise InputError(f"{path}: not an RGBA picture of the matting pack")
    return cv2.cvtColor(picture, cv2.COLOR_BGRA2RGBA)


def shrunk(rgba: np.ndarray, largest: int) -> np.ndarray:
    """RGBA pixels [H, W, 4] uint8 at a longest side of `largest` or less, colours weighted with alpha."""
    if len(rgba) <= largest:
        return rgba
    alpha = np.where(rgba[..., 3:] == 0, 1, rgba[..., 3:]).astype(np.float32)
    flat = cv2.resize(np.dstack([rgba[..., :3] * alpha, alpha]), (largest, largest), interpolation=cv2.INTER_AREA)
    cover = cv2.resize(rgba[..., 3], (largest, largest), interpolation=cv2.INTER_AREA)
    return np.dstack([flat[..., :3] / flat[..., 3:], cover]).round().astype(np.uint8)


def band_of(alpha: np.ndarray) -> np.ndarray:
    """1 within BAND of where alpha [S, S] changes, else 0."""
    reach = max(2, round(BAND * len(alpha)))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    solid, clear = (alpha > 0.95).astype(np.uint8), (alpha > 0.05).astype(np.uint8)
    return (cv2.dilate(clear, kernel) - cv2.erode(solid, kernel)).astype(np.float32)


def placement(source: np.ndarray, side: int, smallest: float, generator: np.random.Generator) -> np.ndarray:
    """A random affine map [2, 3] of a square source into `side` pixels; its lower edge is at or below the frame's."""
    scale = side / len(source) * float(np.exp(generator.uniform(np.log(smallest), np.log(2.0))))
    shown = len(source) * scale
    x = generator.uniform(min(0, side - shown), max(0, side - shown))
    y = side - shown if shown < side else generator.uniform(side - shown, 0)
    flip = generator.random() < 0.5
    angle = np.deg2rad(generator.normal(0, 4))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    linear = turn * scale @ np.diag([-1.0 if flip else 1.0, 1])
    centre = np.array([x, y]) + shown / 2
    shift = centre - linear @ np.array([len(source) / 2] * 2)
    below = len(source) * 0.06 * scale  # a turned lower edge must not show
    return np.hstack([linear, shift[:, None] + [[0], [below]]]).astype(np.float32)


def relit(rgb: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """The picture [H, W, 3] under other light: exposure, tint, gamma, saturation, a gradient across."""
    gain = np.exp(generator.normal(0, 0.18)) * np.exp(generator.normal(0, 0.07, 3))
    rgb = np.clip(rgb * gain.astype(np.float32), 0, 1) ** np.float32(np.exp(generator.normal(0, 0.25)))
    if generator.random() < 0.3:
        grey = rgb.mean(-1, keepdims=True)
        rgb = grey + (rgb - grey) * np.float32(generator.uniform(0, 1.5))
    if generator.random() < 0.4:
        across = np.linspace(generator.uniform(0.4, 1), 1, rgb.shape[1], dtype=np.float32)[None, :, None]
        rgb = rgb * (across if generator.random() < 0.5 else across[:, ::-1])
    return np.clip(rgb, 0, 1).astype(np.float32)


def motion_kernel(generator: np.random.Generator, side: int) -> np.ndarray:
    """A short straight smear [k, k]."""
    length = int(generator.integers(3, max(5, side // 40)))
    kernel = np.zeros((length, length), np.float32)
    angle, half = generator.uniform(0, np.pi), (length - 1) / 2
    step = np.array([np.cos(angle), np.sin(angle)]) * half
    ends = [(round(half + sign * step[0]), round(half + sign * step[1])) for sign in (-1, 1)]
    cv2.line(kernel, ends[0], ends[1], (1.0,), 1)
    return kernel / kernel.sum()


def photographed(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """uint8 of a picture [S, S, 3] after lens blur, resampling, noise and JPEG, each now and then."""
    side = len(image)
    if generator.random() < 0.25:
        image = cv2.GaussianBlur(image, (0, 0), generator.uniform(0.3, max(0.3, side / 250)))
    if generator.random() < 0.2:
        small = int(side * generator.uniform(0.35, 0.9))
        image = cv2.resize(cv2.resize(image, (small, small), interpolation=cv2.INTER_AREA), (side, side))
    if generator.random() < 0.5:
        image = image + generator.normal(0, generator.uniform(0, 0.04), image.shape).astype(np.float32)
    pixels = (np.clip(image, 0, 1) * 255).astype(np.uint8)
    if generator.random() < 0.6:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(generator.integers(35, 96))]
        return np.asarray(cv2.imdecode(cv2.imencode(".jpg", pixels, quality)[1], cv2.IMREAD_COLOR), np.uint8)
    return pixels


def composed(
    person: np.ndarray,  # [H, H, 4] uint8, own colours and exact alpha
    ground: np.ndarray,  # [S, S, 3]
    smallest: float,  # the person's least scale, 1 = the source fills the frame
    generator: np.random.Generator,
) -> Sample:
    """The person before the ground."""
    side = len(ground)
    place = placement(person, side, smallest, generator)
    full = person.astype(np.float32) / 255
    full[..., :3] *= full[..., 3:]
    shrink = float(np.abs(np.linalg.det(place[:, :2]))) ** 0.5
    if shrink < 0.75:  # warpAffine does not average areas
        size = round(len(person) * shrink)
        place[:, :2] *= len(person) / size
        full = np.asarray(cv2.resize(full, (size, size), interpolation=cv2.INTER_AREA), np.float32)
    warped = cv2.warpAffine(full, place, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    alpha = np.clip(warped[..., 3], 0, 1)
    colour = relit(warped[..., :3] / np.maximum(warped[..., 3:], 1e-3), generator)
    if generator.random() < 0.5:  # the ground's light falls on the person
        ambient = ground.mean((0, 1))
        colour = np.clip(colour * (1 + 0.6 * generator.random() * (ambient - ambient.mean())), 0, 1)
    image = colour * alpha[..., None] + ground * (1 - alpha[..., None])
    contrast = np.abs(colour - ground).mean(-1)
    if generator.random() < 0.12:
        kernel = motion_kernel(generator, side)
        image, alpha = cv2.filter2D(image, -1, kernel), cv2.filter2D(alpha, -1, kernel)
    return Sample(photographed(image, generator), alpha, np.ones_like(alpha), band_of(alpha), contrast)


def half_labelled(portrait: np.ndarray, side: int, generator: np.random.Generator) -> Sample:
    """A real portrait [H, H, 4] uint8 with labels, as it is but for place and light."""
    scale = side / len(portrait) * float(np.exp(generator.uniform(0, np.log(1.8))))
    slack = len(portrait) * scale - side
    place = np.array([[scale, 0, -generator.random() * slack], [0, scale, -generator.random() * slack]], np.float32)
    image = cv2.warpAffine(portrait[..., :3], place, (side, side), flags=cv2.INTER_LINEAR).astype(np.float32) / 255
    labels = cv2.warpAffine(portrait[..., 3], place, (side, side), flags=cv2.INTER_NEAREST)
    if generator.random() < 0.5:
        image, labels = image[:, ::-1], np.ascontiguousarray(labels[:, ::-1])
    known = (labels != UNKNOWN).astype(np.float32)
    pixels = photographed(relit(image, generator), generator)
    return Sample(pixels, (labels > UNKNOWN).astype(np.float32), known, np.zeros_like(known), np.zeros_like(known))


def cut_inside(portrait: np.ndarray) -> np.ndarray | None:
    """A real person [H, H, 4] uint8 cut out a little inside the labelled outline; None if it is too ragged.

    Hair is lost, but the alpha of what was cut is exact.
    """
    labels = portrait[..., 3]
    foot = labels[-len(labels) // 64 :] == 255
    if foot.mean() < LEAST_FOOT or (labels == UNKNOWN).mean() > MOST_UNKNOWN:
        return None
    outlines, _ = cv2.findContours((labels == 255).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    mask = np.zeros_like(labels)
    cv2.drawContours(mask, [max(outlines, key=cv2.contourArea)], -1, (255.0,), -1)
    return np.dstack([portrait[..., :3], cv2.GaussianBlur(mask, (0, 0), len(mask) / 256)])


class Painter:
    """Draws samples from `cutout/`, `head/` and `portrait/` below a pack. Raises InputError if one is empty."""

    def __init__(self, pack: Path, held_out: bool = False, largest: int = 512) -> None:
        self.files: dict[str, list[Path]] = {}
        self.read = functools.cache(lambda path: shrunk(read_rgba(path), largest))  # a whole pack is about 1 GB
        for kind in KINDS:
            files = sorted((pack / kind).glob("*.png"))
            self.files[kind] = [file for file in files if kind == "head" or is_held_out(file.stem) == held_out]
            if not self.files[kind]:
                raise InputError(f"{pack / kind}: no pictures; make the pack first")

    def ground(self, side: int, generator: np.random.Generator) -> np.ndarray:
        """A ground [side, side, 3]."""
        if generator.random() < 0.45:
            picture = self.pick("portrait", generator)
            return behind(picture[..., :3], picture[..., 3], side, generator)
        return painted(side, generator)

    def pick(self, kind: str, generator: np.random.Generator) -> np.ndarray:
        """Any picture of a kind."""
        return self.read(self.files[kind][generator.integers(len(self.files[kind]))])

    def training_ground(self, person: np.ndarray, generator: np.random.Generator, side: int) -> np.ndarray:
        """A ground [side, side, 3], often with things about, now and then of the person's own colours."""
        ground = self.ground(side, generator)
        if generator.random() < CAMOUFLAGED:
            rows, columns = np.nonzero(person[..., 3] > 250)
            pick = generator.integers(len(rows))
            own = person[rows[pick], columns[pick], :3].astype(np.float32) / 255
            ground = np.clip(ground + (own - ground.mean((0, 1))) * np.float32(generator.uniform(0.6, 1)), 0, 1)
        if generator.random() < CLUTTERED:
            ground = np.ascontiguousarray(ground, np.float32)
            cluttered(ground, generator)
        return ground

    def sample(self, side: int, generator: np.random.Generator, shares: Mapping[str, float] = SHARES) -> Sample:
        """One sample of `side` pixels, of each kind by its share."""
        kind = generator.choice(list(shares), p=np.array(list(shares.values())))
        picture = self.pick("portrait" if kind == "pasted" else kind, generator)
        if kind == "pasted":
            inside = cut_inside(picture)
            kind, picture = ("portrait", picture) if inside is None else (kind, inside)
        if kind == "portrait":
            return half_labelled(picture, side, generator)
        smallest = {"cutout": 0.75, "head": 0.5, "pasted": 0.85}[kind]
        sample = composed(picture, self.training_ground(picture, generator, side), smallest, generator)
        return replace(sample, band=np.zeros_like(sample.band)) if kind == "pasted" else sample


class Stream(IterableDataset):
    """Endless batches; the same ones for the same seed. With `guided`, a segmentation comes with each picture.

    `edges` draws more of the kinds whose mattes are exact.
    """

    def __init__(self, pack: Path, side: int, batch: int, seed: int, guided: bool = False, edges: bool = False) -> None:
        self.pack, self.side, self.batch, self.seed, self.guided = pack, side, batch, seed, guided
        self.shares = EDGES if edges else SHARES

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        cv2.setNumThreads(1)
        generator = np.random.default_rng(self.seed)
        painter = Painter(self.pack, largest=2 * self.side)
        segmenter = selfie().probability if self.guided else None
        while True:
            samples = [painter.sample(self.side, generator, self.shares) for _ in range(self.batch)]
            pairs = [sample.tensors(segmenter) for sample in samples]
            yield torch.stack([pair[0] for pair in pairs]), torch.stack([pair[1] for pair in pairs])
