"""Matting: how much of each pixel is the person. A photo is a video of one frame."""

import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from flexavatar_cli import weights
from flexavatar_cli.core.errors import InputError, WeightsError
from flexavatar_cli.core.files import digest_bytes, digest_file
from flexavatar_cli.core.onnx import broken, open_session
from flexavatar_cli.core.options import MatteOptions
from flexavatar_cli.core.paths import models_dir
from flexavatar_cli.core.quiet import native_silence
from flexavatar_cli.media.frames import Frames
from flexavatar_cli.media.images import composite, read_matte, resize, to_uint8
from flexavatar_cli.media.video import FILMS, write_video

MODNET_SIDE = 512  # the shorter side that MODNet was trained at
MODNET_STEP = 32  # both sides are multiples of it
SOFT_EDGE = 0.02  # half width of the uncertain band, share of the person's size (root of the area)
CLEAR = 0.03  # share of a cut-out's pixels that are transparent, at least
CUT = 0.04  # mean colour difference of neighbouring frames above which they are of different shots
GUIDE_NOISE = 3e-4  # squared colour contrast below which the guided filter sees no edge
GUIDE_SIDE = 1024  # the guided filter's coefficients are found at this longest side (He and Sun 2015)
GUARD_SIDE = 320  # the same for the outline that only guards
STRAND = 0.15  # alpha above which thin hair still hangs together
SURE, DEEP = 0.85, 0.03  # a segmentation above the one, by this share of the person's size inside, is believed
PATCH, LARGEST_PATCH = 0.012, 0.06  # half the thickness of what is no gap between locks; share of the person's area
ADDED, LOST, SURROUNDINGS = 0.01, 0.003, 0.12  # half the thickness of what is no rim; what is about it; of the size
DOUBTFUL, LIKENESS = 1.1, 0.6  # ratios of colour distances below which what is added, and what is lost, is not believed
FEW, SAMPLED = 30, 300  # pixels that tell; that are looked at
GUIDE = "guide"  # of our net's file
GUIDE_LIMIT = 0.003  # a segmentation is never surer than this
LARGEST_HOLE = 0.015  # of the person's area; a larger gap is background between arm and body
FOREGROUND_BLURS = 0.09, 0.006  # widths of the two rounds, share of the longest side: 90 and 6 of their 1000 pixels
REFINEMENT, GUARD = "4", "4"  # raise when refined() or guarded() gives other pixels, so that work folders notice

Probability = Callable[[np.ndarray], np.ndarray]  # rgb [H, W, 3] float32 -> foreground [H, W] float32 in 0..1


@dataclass(frozen=True)
class Net:
    """A network that tells the person from the background."""

    name: str  # as reported to the user
    digest: str  # sha256 of all that decides its result
    probability: Probability
    coarse: bool  # a segmentation, whose edges want refinement; a true matte does not
    guided: bool = False  # a matte inside a segmentation's band: strands stay, and gaps between them


@functools.cache
def open_net(choice: str = MatteOptions.net) -> Net:
    """The net for `auto`, `portrait`, `selfie`, `modnet` or the path of an ONNX file of MODNet's contract.

    `auto` is the official MODNet if it was pulled, else our own net. Raises WeightsError.
    """
    shipped = models_dir() / "modnet" / "modnet.onnx"
    pulled = weights.model_cache() / "modnet" / "modnet.onnx"
    official = pulled if pulled.is_file() else shipped
    if choice == "modnet" or (choice == "auto" and official.is_file()):
        return modnet(official)
    if choice in ("auto", "portrait"):
        return portrait(models_dir() / "matting" / "portrait-matting.onnx")
    if choice == "selfie":
        return selfie()
    if Path(choice).suffix != ".onnx":
        raise WeightsError(
            f"unknown matting net {choice!r}: use auto, portrait, selfie, modnet, alpha or the path of an .onnx file"
        )
    return modnet(Path(choice))


def has_own_matte(frames: Frames, options: MatteOptions = MatteOptions()) -> bool:
    """Whether the frames' own transparency is the matte; `auto` wants a ground of it in each of them.

    Raises InputError if it was asked for and is not there.
    """
    if options.net not in ("auto", "alpha"):
        return False
    if options.net == "auto":  # a few clear pixels, such as rounded corners, are no matte
        return all(alpha is not None and (alpha < 0.5).mean() > CLEAR for alpha in frames.alphas())
    if not all(alpha is not None for alpha in frames.alphas()):
        raise InputError(f"{frames.path}: has no transparency of its own; leave out `--matte alpha`")
    return True


def matte(
    frames: Frames,
    options: MatteOptions = MatteOptions(),
    on_step: Callable[[int, int], None] | None = None,
    net: Net | None = None,
) -> Iterator[np.ndarray]:
    """The alpha [H, W] float32 of each frame in order, in steps of 1/255 so that an 8-bit PNG holds it exactly.

    A frame's own transparency comes first, then `net` or the one that `options` name. Raises InputError at a frame
    that shows no person.
    """
    if has_own_matte(frames, options):
        alphas: Iterable[np.ndarray] = (alpha for alpha in frames.alphas() if alpha is not None)
    else:
        alphas = net_mattes(frames, net or open_net(options.net))
    for number, alpha in enumerate(alphas):
        if not (alpha > 0.5).any():
            raise InputError(f"{frames.path}: no person found in frame {number}")
        yield (np.round(alpha * 255) / 255).astype(np.float32)
        if on_step is not None:
            on_step(number + 1, len(frames))


def given_mattes(
    frames: Frames, place: Path, on_step: Callable[[int, int], None] | None = None
) -> Iterator[np.ndarray]:
    """The alpha [H, W] of each frame from a PNG, or a folder of them, made elsewhere. Raises InputError."""
    files = sorted(place.glob("*.png")) if place.is_dir() else [place]
    if len(files) != len(frames):
        raise InputError(f"{place}: {len(files)} mattes for the {len(frames)} frames of {frames.path}")
    for number, file in enumerate(files):
        yield resize(read_matte(file, frames.source_size), (frames.width, frames.height))
        if on_step is not None:
            on_step(number + 1, len(files))


def write_mattes(
    frames: Frames,
    alphas: Iterable[np.ndarray],  # one [H, W] per frame
    target: Path,
) -> Path:
    """Write mattes at the source's own size: a PNG, a folder of them, or a film in grey."""
    return write_frames(frames, (resize(alpha, frames.source_size) for alpha in alphas), target)


def write_cut_outs(
    frames: Frames,
    alphas: Iterable[np.ndarray],  # one [H, W] per frame
    target: Path,
    background: tuple[float, float, float] | None,  # None = transparent
) -> Path:
    """Write the person before a background, in their own colours; `.webm`, `.mov` and PNG hold transparency."""
    pictures = (
        np.dstack([front, alpha]) if background is None else composite(front, alpha, background)
        for front, alpha in ((foreground(rgb, alpha), alpha) for rgb, alpha in zip(frames, alphas, strict=True))
    )
    return write_frames(frames, pictures, target)


def write_frames(frames: Frames, pictures: Iterable[np.ndarray], target: Path) -> Path:
    """Write one picture per frame: a photo's as it is named, others into a film or a folder of PNGs."""
    single = frames.kind == "photo" or target.suffix.lower() in FILMS
    return write_video(target if single else f"{target}/", pictures, frames.fps)


def matte_picture(rgb: np.ndarray, net: Net) -> np.ndarray:
    """The alpha [H, W] of one picture [H, W, 3], without a look at its neighbours."""
    return finished(rgb, net.probability(rgb), net)


def net_mattes(frames: Frames, net: Net) -> Iterator[np.ndarray]:
    """The alpha [H, W] of each frame, its probability smoothed over its neighbours of one shot with weights 1 2 1."""
    window: list[tuple[np.ndarray, np.ndarray]] = []  # (rgb, probability) of the frame before, this, and the next
    for rgb in frames:
        window.append((rgb, net.probability(rgb)))
        if len(window) == 1:
            window *= 2  # the first frame has itself before it
        elif len(window) == 3:
            yield blended(window, net)
            window.pop(0)
    window.append(window[-1])
    yield blended(window, net)


def blended(window: list[tuple[np.ndarray, np.ndarray]], net: Net) -> np.ndarray:
    """The alpha [H, W] of the middle frame of three; one of another shot is left out."""
    rgb, now = window[1]
    before, after = (near if same_shot(other, rgb) else now for other, near in (window[0], window[2]))
    return finished(rgb, (before + 2 * now + after) / 4, net)


def same_shot(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether two frames [H, W, 3] may be neighbours of one shot, not across a cut or of two photos in a folder."""
    small = [cv2.resize(rgb, (32, 32), interpolation=cv2.INTER_AREA) for rgb in (first, second)]
    return float(np.abs(small[0] - small[1]).mean()) < CUT


def finished(rgb: np.ndarray, probability: np.ndarray, net: Net) -> np.ndarray:
    """The alpha [H, W] of a picture: edges refined where the net is coarse, one person, no holes."""
    if net.guided:
        return attached(probability)
    return whole(refined(rgb, probability) if net.coarse else probability)


def refined(
    rgb: np.ndarray,  # [H, W, 3]
    probability: np.ndarray,  # [H, W]
    side: int = GUIDE_SIDE,  # pixels, of the guided filter
) -> np.ndarray:  # [H, W] in 0..1
    """The probability, its edge moved to the picture's own edges within a band and sharpened."""
    band = max(2, round(SOFT_EDGE * float(np.sqrt((probability > 0.5).sum()))))
    alpha = guided_filter(rgb, probability, band, GUIDE_NOISE, side)
    sharp = np.clip((alpha - 0.3) / 0.6, 0, 1)  # under 0.3 is mostly a halo of dark background
    solid = whole((probability > 0.5).astype(np.float32)) > 0.5
    inside = distance(~solid) > 2 * band
    near = distance(probability > 0.1) <= band
    return np.where(inside, 1, sharp * near).astype(np.float32)


def whole(alpha: np.ndarray) -> np.ndarray:
    """The alpha [H, W] of the largest connected figure alone, with its holes filled."""
    solid = (alpha > 0.5).astype(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(solid, connectivity=8)
    if count < 2:
        return np.zeros_like(alpha)
    areas = stats[1:, cv2.CC_STAT_AREA]
    figure = labels == 1 + int(areas.argmax())
    reach = max(2, round(SOFT_EDGE * float(np.sqrt(areas.max()))))
    alone = np.where(distance(figure) <= reach, alpha, 0)
    _, gaps, sizes, _ = cv2.connectedComponentsWithStats((~figure).astype(np.uint8), connectivity=4)
    height, width = figure.shape
    left, top, across, down, area = sizes.T
    enclosed = (left > 0) & (top > 0) & (left + across < width) & (top + down < height)
    enclosed &= area < LARGEST_HOLE * areas.max()
    enclosed[0] = False  # label 0 is the figure
    return np.where(enclosed[gaps], 1, alone).astype(np.float32)


def attached(alpha: np.ndarray) -> np.ndarray:
    """The alpha [H, W] of what hangs together with the largest figure, also by thin strands."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats((alpha > STRAND).astype(np.uint8), connectivity=8)
    if len(stats) < 2:
        return np.zeros_like(alpha)
    figure = labels == 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
    return np.where(distance(figure) <= 2, alpha, 0).astype(np.float32)


def distance(figure: np.ndarray) -> np.ndarray:
    """Distance in pixels [H, W] to the nearest pixel of a figure [H, W] bool; it has at least one."""
    return cv2.distanceTransform((~figure).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5)  # to 2 %, five times as fast


def foreground(
    rgb: np.ndarray,  # [H, W, 3]
    alpha: np.ndarray,  # [H, W]
) -> np.ndarray:  # [H, W, 3] in 0..1
    """The person's own colour at soft edges, without the background that shines through (Forte and Pitie 2021).

    `composite(foreground(rgb, alpha), alpha, colour)` has no halo of the old background.
    """
    front = behind = rgb
    for share in FOREGROUND_BLURS:
        front, behind = unmixed(rgb, front, behind, alpha[..., None], 2 * round(share * max(alpha.shape) / 2) + 1)
    return np.where(alpha[..., None] > 0.999, rgb, np.clip(front, 0, 1)).astype(np.float32)


def unmixed(
    rgb: np.ndarray,  # [H, W, 3]
    front: np.ndarray,  # [H, W, 3]
    behind: np.ndarray,  # [H, W, 3]
    alpha: np.ndarray,  # [H, W, 1]
    side: int,  # pixels
) -> tuple[np.ndarray, np.ndarray]:  # [H, W, 3] each
    """Better guesses of the colours in front and behind: local means, the front then explaining the rest of `rgb`."""

    def mean(image: np.ndarray) -> np.ndarray:
        return cv2.blur(image, (side, side), borderType=cv2.BORDER_REFLECT).reshape(*alpha.shape[:2], -1)

    share, tiny = mean(alpha), np.float32(1e-5)
    front = mean(front * alpha) / (share + tiny)
    behind = mean(behind * (1 - alpha)) / (1 - share + tiny)
    return front + alpha * (rgb - alpha * front - (1 - alpha) * behind), behind


def guided_filter(
    guide: np.ndarray,  # [H, W, 3]
    values: np.ndarray,  # [H, W]
    radius: int,  # pixels
    noise: float,  # squared colour
    longest: int = GUIDE_SIDE,  # pixels
) -> np.ndarray:  # [H, W]
    """In each window the best linear function of the colour for `values` (He et al. 2013, Eq. 19), averaged.

    Coefficients are found at most at a longest side of `longest` and enlarged (fast guided filter).
    """
    height, width = values.shape
    scale = min(1.0, longest / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    colour = cv2.resize(guide, size, interpolation=cv2.INTER_AREA)
    target = cv2.resize(values, size, interpolation=cv2.INTER_AREA)
    side = 2 * max(1, round(radius * scale)) + 1

    def mean(image: np.ndarray) -> np.ndarray:
        return cv2.boxFilter(image, -1, (side, side), borderType=cv2.BORDER_REFLECT)

    mean_colour, mean_target = mean(colour), mean(target)
    shared = mean(colour * target[..., None]) - mean_colour * mean_target[..., None]
    square, across = (  # covariance of the colours: rr gg bb, rg gb br
        mean(colour * other) - mean_colour * mean_other
        for other, mean_other in ((colour, mean_colour), (np.roll(colour, -1, -1), np.roll(mean_colour, -1, -1)))
    )
    slope = solve_symmetric(square + np.float32(noise), across, shared)
    offset = mean_target - dot(slope, mean_colour)
    full_slope, full_offset = (cv2.resize(mean(part), (width, height)) for part in (slope, offset))
    return np.clip(dot(full_slope, guide) + full_offset, 0, 1)


def dot(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Sums [H, W] over the last axis of products of [H, W, C]; numpy's own sum is slow on short axes."""
    return np.einsum("ijk,ijk->ij", first, second)


def solve_symmetric(
    square: np.ndarray,  # [..., 3] a00 a11 a22
    across: np.ndarray,  # [..., 3] a01 a12 a20
    right: np.ndarray,  # [..., 3]
) -> np.ndarray:  # [..., 3]
    """The solution of symmetric positive 3 x 3 systems by Cramer's rule; ten times faster than LAPACK on pixels."""
    a00, a11, a22 = (square[..., k] for k in range(3))
    a01, a12, a20 = (across[..., k] for k in range(3))
    b0, b1, b2 = (right[..., k] for k in range(3))
    c00, c11, c22 = a11 * a22 - a12 * a12, a00 * a22 - a20 * a20, a00 * a11 - a01 * a01
    c01, c12, c20 = a12 * a20 - a01 * a22, a01 * a20 - a00 * a12, a01 * a12 - a11 * a20
    solution = c00 * b0 + c01 * b1 + c20 * b2, c01 * b0 + c11 * b1 + c12 * b2, c20 * b0 + c12 * b1 + c22 * b2
    return np.stack(solution, -1) / (a00 * c00 + a01 * c01 + a20 * c20)[..., None]


def selfie() -> Net:
    """MediaPipe's selfie segmentation, which comes inside its wheel: a segmentation at 256 pixels, then refinement."""
    with native_silence():
        from mediapipe.python.solutions.selfie_segmentation import SelfieSegmentation

        segmentation = SelfieSegmentation(model_selection=0)
        segmentation.process(np.zeros((256, 256, 3), np.uint8))  # its threads talk until the first picture is done

    def look(rgb: np.ndarray) -> np.ndarray:
        return segmentation.process(np.ascontiguousarray(to_uint8(rgb))).segmentation_mask

    def probability(rgb: np.ndarray) -> np.ndarray:
        """Mean over the picture, its mirror image and, unless it is nearly square already, both padded to a square."""
        height, width = rgb.shape[:2]
        side = max(height, width)
        top, left = (side - height) // 2, (side - width) // 2
        padding = (top, side - height - top, left, side - width - left)
        square = cv2.copyMakeBorder(rgb, *padding, cv2.BORDER_REPLICATE)
        looks = [look(rgb), look(rgb[:, ::-1])[:, ::-1]]
        if min(height, width) < 0.9 * side:
            inner = slice(top, top + height), slice(left, left + width)
            looks += [look(square)[inner], look(square[:, ::-1])[:, ::-1][inner]]
        return np.mean(looks, axis=0, dtype=np.float32)

    import mediapipe

    digest = digest_bytes(b"selfie", mediapipe.__version__.encode(), REFINEMENT.encode())
    return Net("MediaPipe selfie segmentation + guided filter", digest, probability, coarse=True)


def modnet(path: Path) -> Net:
    """The matting net in an ONNX file of MODNet's contract (Ke et al. 2022). Raises WeightsError if it is another.

    Input float32 [1, 3, H, W], RGB in -1..1, sides multiples of 32; output alpha [1, 1, H, W] in 0..1.
    """
    look = open_modnet(path)
    digest = digest_bytes(b"modnet", digest_file(path).encode())
    return Net(f"MODNet ({path.name})", digest, lambda rgb: look(rgb, None), coarse=False)


def open_modnet(path: Path) -> Callable[[np.ndarray, np.ndarray | None], np.ndarray]:
    """A function of rgb [H, W, 3] and a guide [H, W] for nets that take one, to alpha [H, W]. Raises WeightsError."""
    if not path.is_file():
        raise WeightsError(f"{path}: no such matting net; use --matte selfie, or see `flexavatar models`")
    session = open_session(path)
    inputs, outputs = session.get_inputs(), session.get_outputs()
    contract = f"{path}: not MODNet's contract (float32 [1, 3, H, W] in, [1, 1, H, W] out)"
    if len(inputs) != 1 or inputs[0].type != "tensor(float)" or not fits(inputs[0].shape, 3):
        raise WeightsError(f"{contract}: takes {[(i.name, i.shape) for i in inputs]}")
    if not fits(outputs[0].shape, 1):
        raise WeightsError(f"{contract}: gives {[(o.name, o.shape) for o in outputs]}")
    fixed = [side if isinstance(side, int) else None for side in inputs[0].shape[2:]]
    guided = GUIDE in [entry.name for entry in session.get_overridable_initializers()]

    def look(rgb: np.ndarray, guide: np.ndarray | None) -> np.ndarray:
        height, width = (side or wanted for side, wanted in zip(fixed, modnet_size(*rgb.shape[:2])))
        small = cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA)
        feed: dict[str, np.ndarray] = {
            inputs[0].name: np.ascontiguousarray((small * 2 - 1).transpose(2, 0, 1)[None], np.float32)
        }
        if guided and guide is not None:
            feed[GUIDE] = cv2.resize(guide, (width // 4, height // 4), interpolation=cv2.INTER_AREA)[None, None]
        try:
            alpha = session.run(None, feed)[0]
        except broken() as error:
            raise WeightsError(f"{contract}: fails on a picture of {width} x {height}") from error
        if alpha.shape != (1, 1, height, width) or not np.isfinite(alpha).all():
            raise WeightsError(f"{contract}: gave {alpha.shape} or values that are not finite")
        full = cv2.resize(alpha[0, 0], (rgb.shape[1], rgb.shape[0]), interpolation=cv2.INTER_LINEAR)
        return np.clip(full, 0, 1).astype(np.float32)

    return look


def portrait(path: Path) -> Net:
    """Our own matting net, told what the segmentation says; the segmentation also guards it against strays."""
    look, rough = open_modnet(path), selfie()

    def probability(rgb: np.ndarray) -> np.ndarray:
        return told(rgb, rough.probability(rgb), look)

    digest = digest_bytes(b"portrait", digest_file(path).encode(), rough.digest.encode(), GUARD.encode())
    return Net("portrait-matting, guided by MediaPipe selfie segmentation", digest, probability, False, guided=True)


def told(
    rgb: np.ndarray,  # [H, W, 3]
    segmented: np.ndarray,  # [H, W] in 0..1
    look: Callable[[np.ndarray, np.ndarray | None], np.ndarray],  # of `open_modnet`
) -> np.ndarray:  # [H, W]
    """What a net says that is told of a segmentation, and guarded by it."""
    outline = whole(refined(rgb, segmented, GUARD_SIDE))
    return guarded(rgb, look(rgb, guide_of(segmented)), segmented, outline)


def guarded(
    rgb: np.ndarray,  # [H, W, 3]
    fine: np.ndarray,  # [H, W] a matte
    rough: np.ndarray,  # [H, W] a segmentation
    refined: np.ndarray,  # [H, W] its refinement
) -> np.ndarray:  # [H, W]
    """The matte, solid deep inside of what both see, without the patches in which it errs by colours or certainty."""
    seen = rough > 0.5
    if not seen.any():  # our net saw people in all pictures of its training, and sees one in a grey wall
        return np.zeros_like(fine)
    if seen.all():
        return fine
    fine = arbitrated(rgb, restored(fine, rough, refined), refined)
    person = filled(fine > 0.5, rough > SURE)
    size = float(np.sqrt(person.sum()))
    if not person.any():
        return fine
    inside = np.clip(distance(~(person & (rough > SURE))) / (DEEP * size) - 1, 0, 1)
    return np.maximum(fine, inside).astype(np.float32)


def restored(
    fine: np.ndarray,  # [H, W] a matte
    rough: np.ndarray,  # [H, W] a segmentation
    refined: np.ndarray,  # [H, W] its refinement
) -> np.ndarray:  # [H, W]
    """The matte with the patches that it lost and the segmentation is sure of, such as a white cap on white.

    Thin ones stay lost (gaps between locks, a wide outline), and so do large ones (the segmentation erred).
    """
    size = float(np.sqrt((rough > 0.5).sum()))
    lost = (rough > 0.7) & (fine < 0.5)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(lost.astype(np.uint8), connectivity=4)
    if count < 2 or lost.all():
        return fine
    thick = np.bincount(labels[distance(~lost) > PATCH * size], minlength=count) > 0
    certainty = np.bincount(labels.ravel(), rough.ravel(), count) / stats[:, cv2.CC_STAT_AREA]
    chosen = thick & (certainty > SURE) & (stats[:, cv2.CC_STAT_AREA] < LARGEST_PATCH * size**2)
    chosen[0] = False  # label 0 is the rest
    if not chosen.any():
        return fine
    near = distance(chosen[labels]) <= 2 + PATCH / 2 * size
    return np.where(near, np.maximum(fine, refined), fine)


def arbitrated(
    rgb: np.ndarray,  # [H, W, 3]
    fine: np.ndarray,  # [H, W] a matte
    refined: np.ndarray,  # [H, W] a refined segmentation
) -> np.ndarray:  # [H, W]
    """The matte, but for thick patches where the two differ and the segmentation is right by the colours about them.

    These are things that the matte adds and that look like the ground, and holes in it that look like the person.
    """
    size = float(np.sqrt((refined > 0.5).sum()))
    reach, result = round(SURROUNDINGS * size), fine.copy()
    for differs, half, better, likeness in (
        (fine - refined > 0.25, ADDED, np.minimum, DOUBTFUL),
        (refined - fine > 0.25, LOST, np.maximum, LIKENESS),
    ):
        thick = distance(~differs) > max(1.5, half * size) if not differs.all() else differs
        for patch in patches(thick, LARGEST_PATCH * size**2, reach):
            from_person, from_ground = likely(rgb, patch, fine, refined, reach)
            ours, theirs = (from_person, from_ground) if better is np.minimum else (from_ground, from_person)
            if theirs < likeness * ours:
                near = distance(patch.shape) <= 4 + 2 * half * size
                result[patch.window] = np.where(near, better(fine, refined)[patch.window], result[patch.window])
    return result


@dataclass(frozen=True)
class Patch:
    """A connected part of a mask and its surroundings."""

    window: tuple[slice, slice]  # rows and columns of the picture
    shape: np.ndarray  # [h, w] bool, within the window


def patches(mask: np.ndarray, largest: float, reach: int) -> Iterator[Patch]:
    """The connected parts of a mask [H, W] bool of up to `largest` pixels, with `reach` pixels about each."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    for label, (left, top, wide, high, area) in enumerate(stats[1:], 1):
        if FEW / 4 < area <= largest:
            window = slice(max(0, top - reach), top + high + reach), slice(max(0, left - reach), left + wide + reach)
            yield Patch(window, labels[window] == label)


def likely(
    rgb: np.ndarray,  # [H, W, 3]
    patch: Patch,
    fine: np.ndarray,  # [H, W]
    refined: np.ndarray,  # [H, W]
    reach: int,  # pixels
) -> tuple[float, float]:
    """How far a patch's colours are from the person's and the ground's about it.

    Infinitely far where no person is about; NaN if no ground is.
    """
    near, colours = distance(patch.shape) < reach, rgb[patch.window]
    person = (np.minimum(fine, refined)[patch.window] > 0.95) & near
    ground = (np.maximum(fine, refined)[patch.window] < 0.1) & near
    if ground.sum() < FEW:
        return float("nan"), float("nan")
    own = colours[patch.shape]
    return apart(own, colours[person]) if person.sum() >= FEW else float("inf"), apart(own, colours[ground])


def apart(
    colours: np.ndarray,  # [N, 3]
    others: np.ndarray,  # [M, 3]
) -> float:
    """How far the median of some colours is from the nearer ones among others."""
    some, rest = (part[:: len(part) // SAMPLED + 1] for part in (colours, others))
    distances = np.linalg.norm(some[:, None] - rest, axis=-1)
    return float(np.median(np.quantile(distances, 0.03, axis=1)))


def filled(figure: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """A figure [H, W] bool with those of its gaps that are small and mostly lie where `allowed` [H, W] bool."""
    _, gaps, sizes, _ = cv2.connectedComponentsWithStats((~figure).astype(np.uint8), connectivity=4)
    share = np.bincount(gaps.ravel(), allowed.ravel(), len(sizes)) / np.maximum(sizes[:, cv2.CC_STAT_AREA], 1)
    chosen = (share > 0.8) & (sizes[:, cv2.CC_STAT_AREA] < LARGEST_PATCH * figure.sum())
    chosen[0] = False  # label 0 is the figure
    return figure | chosen[gaps]


def guide_of(probability: np.ndarray) -> np.ndarray:
    """What our net is told of a segmentation [H, W]: its logits, halved and limited."""
    sure = np.clip(probability, GUIDE_LIMIT, 1 - GUIDE_LIMIT)
    return (0.5 * np.log(sure / (1 - sure))).astype(np.float32)


def fits(shape: list[int | str | None], channels: int) -> bool:
    """Whether an ONNX shape is [1 or any, `channels`, any, any]."""
    return len(shape) == 4 and shape[1] in (channels, None) and (not isinstance(shape[0], int) or shape[0] == 1)


def modnet_size(height: int, width: int) -> tuple[int, int]:
    """The height and width at which MODNet's authors run a picture (their inference script)."""
    if max(height, width) < MODNET_SIDE or min(height, width) > MODNET_SIDE:
        scale = MODNET_SIDE / min(height, width)
        height, width = int(height * scale), int(width * scale)
    return tuple(max(MODNET_STEP, side - side % MODNET_STEP) for side in (height, width))  # type: ignore[return-value]
