"""One view's squared error on white, split by silhouette (lacking, surplus, colour inside both) and at the neck."""

from dataclasses import dataclass

import numpy as np

from flexavatar_cli.evaluation import quality
from flexavatar_cli.evaluation.scenes import Target

PARTS = ("lacking", "surplus", "colour")


@dataclass(frozen=True)
class Split:
    """Squared errors, mean over RGB and over the whole picture: they add up to that of its PSNR."""

    head: dict[str, float]  # of PARTS, above the neck
    clothes: dict[str, float]

    @property
    def parts(self) -> list[float]:
        """Those of the head, then those of the clothes."""
        return [*self.head.values(), *self.clothes.values()]

    @property
    def colour_psnr(self) -> float:
        """PSNR if the silhouette were the true one."""
        return float(-10 * np.log10(max(self.head["colour"] + self.clothes["colour"], 1e-12)))


def regions(alpha: np.ndarray, target: Target) -> dict[str, np.ndarray]:  # [H, W] -> bool [H, W] each
    """Where the truth is and the picture is not, the other way round, and where they agree."""
    theirs, ours = target.matte * target.inside > quality.INSIDE, alpha > quality.INSIDE
    return dict(zip(PARTS, (theirs & ~ours, ours & ~theirs, theirs == ours), strict=True))


def split(rgb: np.ndarray, alpha: np.ndarray, target: Target) -> Split:
    """The split of a picture [H, W, 3] on white with its alpha [H, W]."""
    squared = ((np.clip(rgb, 0, 1).astype(np.float64) - target.shown()) ** 2).mean(-1)
    above = np.arange(len(squared))[:, None] < quality.shoulder_row(target.camera)
    places = [
        {part: float((squared * region * half).mean()) for part, region in regions(alpha, target).items()}
        for half in (above, ~above)
    ]
    return Split(*places)
