"""Options of the commands with their defaults, stated once. Standard library only: `--help` reads them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class CommonOptions:
    """What most commands share."""

    model: str = "open-1"
    device: str = "auto"
    seed: int = 0
    size: int = 512  # pixels, side of square pictures
    face: str = "largest"  # or the number of the face, from the left


@dataclass(frozen=True)
class EncodeOptions:
    """Photo, matte and track to an avatar code."""

    bias_sink: str = "3d"  # behave like multi-view training data ("3d") or like monocular data ("2d")
    image_features: str = ""  # a .npy of features computed elsewhere, for models that fuse them in; "" = compute them


@dataclass(frozen=True)
class FitOptions:
    """Optimisation of the avatar code alone, network frozen."""

    steps: int = 2000
    frames: int = 900  # a longer video is thinned evenly to this many frames
    hold_out: int = 0  # every n-th frame is kept from fitting and measured afterwards; 0 = none
    learning_rate: float = 9e-3
    preset: str = "default"  # or "paper": the published recipe, for comparison


@dataclass(frozen=True)
class RenderOptions:
    """Avatar, motion and cameras to pictures."""

    camera: str = "orbit"  # orbit, front, driver, circle, or a cameras.json
    background: str = "white"  # white, black, transparent, or #rrggbb
    relative: bool = False  # the driver's motion since its first frame, on top of the avatar's neutral
    fps: float = 25.0  # of the built-in motion; a driver brings its own
    fast: bool = False  # play from a low-rank basis instead of running the network


@dataclass(frozen=True)
class PlaybackOptions:
    """An avatar to its low-rank basis."""

    error: float = 0.3  # 1/255, mean over the head's pixels; the budget is 0.5, and real speech is not the built-in one
    samples: int = 256  # expressions that the network is asked for
    held_out: int = 16  # pictures that the error is measured on
    size: int = 384  # pixels, side of those pictures
    seed: int = 0


@dataclass(frozen=True)
class CreateOptions:
    """Photo to avatar and preview."""

    steps: int = 200  # of fitting
    preview: bool = True


@dataclass(frozen=True)
class TrackOptions:
    """Frames to cameras, expressions and one identity."""

    face: str = "largest"  # or the number of the face, from the left, from 0
    looks: int = 0  # FaceMesh looks averaged per frame; 0 = 12 for one picture, 3 for a video
    identity_frames: int = 12  # frames of a video that the identity is solved on
    identity_weight: float = 20.0  # of the prior on identity; landmark errors are correlated, so not 1
    expression_weight: float = 60.0  # lambda of the L1 prior on expression; jaw and lids a sixth of it
    smoothing: float = 0.8  # frames, sigma of the Gaussian over pose and expression


@dataclass(frozen=True)
class MatteOptions:
    """Photo or frames to mattes."""

    net: str = "auto"  # auto, selfie, portrait, modnet, alpha (the picture's own transparency), the path of a net


@dataclass(frozen=True)
class PrepareOptions:
    """Raw material to a training set."""

    views: int = 1000  # synthetic pictures
    held_views: int = 40
    portraits: int = 2000
    frames: int = 8  # of each video of one's own
    shard: int = 0  # rows of each .tar; 0 = plain arrays


@dataclass(frozen=True)
class EvalOptions:
    """How much `eval` does."""

    protocols: tuple[str, ...] = ("self", "cross", "completeness")
    frames: int = 50  # compared per scene, spread evenly, as in the published VFHQ protocol
    steps: int = 200  # of fitting, per avatar and sink; 0 leaves the fitted rows out
    source: str = "frontal"  # frame the avatar is made of: frontal or first
    shots: int = 4  # input frames of the few-shot protocol
    sink: str = "both"  # bias sinks in the table: both, 3d or 2d
