"""The measures of `eval`: what each is, whose convention it follows, and the pure functions that compute it."""

from dataclasses import dataclass

import cv2
import numpy as np

from flexavatar_cli.evaluation.quality import INSIDE

WINDOW, SIGMA = 11, 1.5  # pixels: Wang et al. 2004
C1, C2 = 0.01**2, 0.03**2  # of a data range of 1
FACE_TEMPLATE = np.array(  # pixels of a 112 x 112 crop: eyes (left in the picture first), nose tip, mouth corners
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
ANGLES = 3  # the last entries of the tracker's code: yaw, pitch, roll


@dataclass(frozen=True)
class Metric:
    """One column of the table."""

    key: str
    label: str
    unit: str
    better: str  # "high", "low", "one": best at 1, or "none": neither
    source: str  # reference and convention
    digits: int = 3


METRICS = {
    metric.key: metric
    for metric in (
        Metric("psnr", "PSNR", "dB", "high", "whole picture on white; peak 1, mean over RGB, mean of frames", 2),
        Metric("psnr_black", "PSNR blk", "dB", "high", "the same on black, as the published FLEX-1 numbers", 2),
        Metric("psnr_matte", "PSNR in", "dB", "high", "inside the driver's matte (> 0.5) only", 2),
        Metric(
            "ssim",
            "SSIM",
            "",
            "high",
            "Wang et al. 2004: 11 x 11 Gaussian, sigma 1.5, RGB, borders left out (as scikit-image); on white",
        ),
        Metric("ssim_black", "SSIM blk", "", "high", "the same on black"),
        Metric("ssim_matte", "SSIM in", "", "high", "mean of the SSIM map of the white picture inside the matte"),
        Metric("lpips", "LPIPS", "", "low", "Zhang et al. 2018, v0.1; 512 px pictures on white, -1..1"),
        Metric("iou", "IoU", "", "high", "alpha > 0.5 against matte > 0.5, all of the picture"),
        Metric("iou_head", "IoU head", "", "high", "the same above the shoulders only"),
        Metric(
            "akd",
            "AKD",
            "px",
            "low",
            "mean landmark distance in px of a 512 px picture (Siarohin et al. 2019; papers vary in net and scale)",
            2,
        ),
        Metric(
            "csim",
            "CSIM",
            "",
            "high",
            "cosine of face embeddings, ArcFace crop (Deng et al. 2019); with the truth, or the source if crossed",
        ),
        Metric(
            "aed",
            "AED",
            "",
            "low",
            "mean L1 of 52 ARKit weights, one identity per clip (Ren et al. 2021 take 3DMM coefficients)",
            4,
        ),
        Metric("apd", "APD", "rad", "low", "mean L1 of yaw, pitch, roll (Ren et al. 2021)", 4),
        Metric(
            "flicker",
            "flicker",
            "x",
            "one",
            "own measure: mean second time difference inside the matte, over the driver's; 12 frames in a row",
            2,
        ),
        Metric(
            "jod", "JOD", "", "high", "FovVideoVDP (Mantiuk et al. 2021), standard_4k display, 10 = no difference", 2
        ),
        Metric(
            "holes",
            "holes",
            "",
            "low",
            "own measure: share of the head's silhouette with alpha < 0.9, at rest from 12 azimuths",
            4,
        ),
        *(
            Metric(
                f"hidden_{yaw}",
                f"hid {yaw}",
                "dB",
                "high",
                f"own measure: PSNR before against after fitting over the head at rest, yaw {yaw}, the worse side",
                1,
            )
            for yaw in (90, 135, 180)
        ),
        Metric("csim_wrong", "CSIM wrong", "", "none", "the same with the photos of the others, their mean"),
        Metric("told_apart", "own > wrong", "", "high", "share of the others' photos that are less alike than its own"),
        Metric("csim_a", "CSIM A", "", "none", "front render of an in-between head with the first person's photo"),
        Metric("csim_b", "CSIM B", "", "none", "the same with the second person's photo"),
        Metric(
            "monotonic", "monotonic", "", "high", "share of steps from A to B on which CSIM A falls and CSIM B rises", 2
        ),
    )
}


def ssim_map(image: np.ndarray, target: np.ndarray) -> np.ndarray:  # [H, W, 3] in 0..1 each -> [H, W, 3]
    """Structural similarity around each pixel (Wang et al. 2004), population covariance, mirrored borders."""
    a, b = image.astype(np.float64), target.astype(np.float64)

    def blur(values: np.ndarray) -> np.ndarray:
        return cv2.GaussianBlur(values, (WINDOW, WINDOW), SIGMA, borderType=cv2.BORDER_REFLECT)

    mean_a, mean_b = blur(a), blur(b)
    variance_a, variance_b = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2
    covariance = blur(a * b) - mean_a * mean_b
    top = (2 * mean_a * mean_b + C1) * (2 * covariance + C2)
    return top / ((mean_a**2 + mean_b**2 + C1) * (variance_a + variance_b + C2))


def ssim_mean(similarity: np.ndarray, mask: np.ndarray | None = None) -> float:  # [H, W, 3], [H, W]
    """Mean of an SSIM map over the pixels whose window lies in the picture, or over those where `mask` > 0.5."""
    if mask is not None:
        chosen = similarity[mask > INSIDE]
        return float(chosen.mean()) if chosen.size else float("nan")
    edge = WINDOW // 2
    return float(similarity[edge:-edge, edge:-edge].mean())


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    """Cosine of the angle between two vectors; NaN if one is missing (NaN)."""
    return float(one @ other / max(float(np.linalg.norm(one) * np.linalg.norm(other)), 1e-12))


def keypoint_distance(one: np.ndarray, other: np.ndarray, side: int) -> float:  # [P, 2] px of a picture `side` wide
    """Mean distance of two sets of landmarks, scaled to pixels of a 512 px picture (AKD)."""
    return float(np.linalg.norm(one - other, axis=-1).mean() * 512 / side)


def code_distances(one: np.ndarray, other: np.ndarray, weights: int = 52) -> tuple[np.ndarray, np.ndarray]:
    """AED and APD [T] of tracker codes [T, E]: mean L1 of the expression weights and of the head angles (radians)."""
    difference = np.abs(one.astype(np.float64) - other)
    return difference[:, :weights].mean(-1), difference[:, -ANGLES:].mean(-1)


def second_difference(three: list[np.ndarray]) -> np.ndarray:  # 3 x [H, W, 3] -> [H, W]
    """How much the middle picture departs from the mean of its neighbours in time, mean over RGB."""
    before, now, after = (picture.astype(np.float32) for picture in three)
    return np.abs(before - 2 * now + after).mean(-1)


def similarity_transform(source: np.ndarray, target: np.ndarray) -> np.ndarray:  # [P, 2] each -> [2, 3]
    """Least-squares rotation, scale and shift from `source` to `target` points."""
    x, y = source.T
    one, zero = np.ones(len(source)), np.zeros(len(source))
    rows = np.concatenate([np.stack([x, -y, one, zero], 1), np.stack([y, x, zero, one], 1)])
    (a, b, shift_x, shift_y), *_ = np.linalg.lstsq(rows, target.T.ravel(), rcond=None)
    return np.array([[a, -b, shift_x], [b, a, shift_y]])
