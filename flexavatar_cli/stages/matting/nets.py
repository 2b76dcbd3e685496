"""The networks that tell the person from the background."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from flexavatar_cli import weights
from flexavatar_cli.core.errors import WeightsError
from flexavatar_cli.core.files import digest_bytes, digest_file
from flexavatar_cli.core.onnx import broken, open_session
from flexavatar_cli.core.options import MatteOptions
from flexavatar_cli.core.paths import models_dir
from flexavatar_cli.core.quiet import native_silence
from flexavatar_cli.media.images import to_uint8
from flexavatar_cli.stages.matting.figures import whole
from flexavatar_cli.stages.matting.guard import GUARD, guarded
from flexavatar_cli.stages.matting.refinement import REFINEMENT, refined

MODNET_SIDE = 512  # the shorter side that MODNet was trained at
MODNET_STEP = 32  # both sides are multiples of it
GUARD_SIDE = 320  # the same for the outline that only guards
GUIDE = "guide"  # of our net's file
GUIDE_LIMIT = 0.003  # a segmentation is never surer than this

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
