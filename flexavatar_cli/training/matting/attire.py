"""What is painted around a synthetic head in the plane: loose strands, hats, shoulders and their cloth."""

import cv2
import numpy as np

SHIFT = 4  # fractional bits of OpenCV's coordinates


def polygon(side: int, outline: np.ndarray) -> np.ndarray:
    """The area [side, side] uint8 inside an outline [N, 2] of pixels, its edge smooth."""
    mask = np.zeros((side, side), np.uint8)
    points = np.round(outline * 2**SHIFT).astype(np.int32)
    return np.asarray(cv2.fillPoly(mask, [points], (255.0,), cv2.LINE_AA, SHIFT), np.uint8)


def flyaways(
    colour: np.ndarray, alpha: np.ndarray, before: np.ndarray, tint: np.ndarray, generator: np.random.Generator
) -> None:
    """Draw thin loose strands that start in the hair: what is in `alpha` and not in `before`. In place."""
    hair = (alpha > 0.7) & (before < 0.5)
    rim = hair & (cv2.erode(hair.astype(np.uint8), np.ones((9, 9), np.uint8)) == 0)
    rows, columns = np.nonzero(rim)
    if len(rows) < 50:
        return
    centre = np.array([columns.mean(), rows.mean()])
    for _ in range(int(generator.choice([0, 15, 60, 160], p=[0.2, 0.3, 0.3, 0.2]))):
        pick = generator.integers(len(rows))
        at = np.array([columns[pick], rows[pick]], float)
        heading = at - centre
        heading = heading / max(np.linalg.norm(heading), 1) + generator.normal(0, 0.6, 2) + (0, 0.4)
        curl, length = generator.normal(0, 0.05), generator.integers(8, 50)
        line = []
        for _ in range(length):
            line.append(at.copy())
            at += 4 * heading / max(np.linalg.norm(heading), 0.1)
            turn = np.array([[np.cos(curl), -np.sin(curl)], [np.sin(curl), np.cos(curl)]])
            heading = turn @ heading
        strand = np.zeros(alpha.shape, np.uint8)
        curve = np.round(np.array(line) * 2**SHIFT).astype(np.int32)
        strength, thick = (float(generator.uniform(90, 255)),), int(generator.integers(1, 3))
        cv2.polylines(strand, [curve], False, strength, thick, cv2.LINE_AA, SHIFT)
        x0, y0 = np.maximum(np.floor(np.min(line, 0)).astype(int) - 3, 0)
        x1, y1 = np.ceil(np.max(line, 0)).astype(int) + 3
        cover = strand[y0:y1, x0:x1, None].astype(np.float32) / 255
        shade = np.clip(tint * generator.uniform(0.6, 1.5), 0, 1)
        colour[y0:y1, x0:x1] = cover * shade + (1 - cover) * colour[y0:y1, x0:x1]
        alpha[y0:y1, x0:x1] = cover[..., 0] + (1 - cover[..., 0]) * alpha[y0:y1, x0:x1]


def hat(head: np.ndarray, colour: np.ndarray, alpha: np.ndarray, generator: np.random.Generator) -> None:
    """Paint a hat, cap or helmet over the upper part of a head, given as pixels [N, 2]. In place."""
    left, right = np.percentile(head[:, 0], [1, 99])
    top, low = np.percentile(head[:, 1], [1, 99])
    middle, half, tall = (left + right) / 2, (right - left) / 2, low - top
    rise, brim = tall * generator.uniform(0.1, 0.6), top + tall * generator.uniform(0.3, 0.6)
    t = np.linspace(0, np.pi, 40)
    square = generator.uniform(0.4, 1)
    crown = np.stack([np.cos(t), np.sign(np.sin(t)) * np.abs(np.sin(t)) ** square], -1)
    crown = crown * [-half * generator.uniform(1.05, 1.35), -(brim - top + rise)] + [middle, brim]
    bow = brim + tall * generator.uniform(-0.05, 0.15) * np.sin(np.linspace(0, np.pi, 20))
    sag = np.stack([np.linspace(crown[-1, 0], crown[0, 0], 20), bow], -1)
    shape = polygon(len(alpha), np.concatenate([crown, sag]))
    if generator.random() < 0.4:
        centre = (round(float(middle)), round(float(brim)))
        axes = (round(float(half) * generator.uniform(1.4, 2)), round(float(tall) * generator.uniform(0.05, 0.15)))
        cv2.ellipse(shape, centre, axes, generator.normal(0, 4), 0, 360, (255.0,), -1, cv2.LINE_AA)
    cover = shape.astype(np.float32) / 255
    cloth = fabric(len(alpha), generator)
    colour[:] = cover[..., None] * cloth + (1 - cover[..., None]) * colour
    alpha[:] = cover + (1 - cover) * alpha


def clothes(
    neck: np.ndarray,  # [N, 2] pixels of the neck's lower end
    side: int,
    generator: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:  # [side, side, 3] premultiplied, [side, side]
    """Shoulders below a neck: a smooth outline filled with cloth, often with a collar or lapels."""
    left, right = np.percentile(neck[:, 0], [2, 98])
    middle, width, top = (left + right) / 2, max(right - left, side / 8), np.percentile(neck[:, 1], 8)
    spread, drop = width * generator.uniform(0.8, 1.7), width * generator.uniform(0.15, 0.5)
    t = np.linspace(0, 1, 40)
    slope = drop * t ** generator.uniform(0.8, 2.5)
    wobble = generator.normal(0, 0.006 * side) * np.sin(generator.uniform(2, 8) * t * np.pi)
    reach = width * 0.3 + (spread - width * 0.3) * np.sin(t * np.pi / 2)
    down = top + slope + wobble + np.maximum(t - 0.85, 0) * side
    outline = np.concatenate(
        [
            np.stack([middle - reach, down], -1)[::-1],
            np.stack([middle + reach * generator.uniform(0.85, 1.15), down], -1),
            [[middle + spread * 1.1, 2 * side], [middle - spread * 1.1, 2 * side]],
        ]
    )
    alpha = polygon(side, outline)
    cloth = fabric(side, generator)
    if generator.random() < 0.6:  # shirt between lapels, perhaps a tie
        inner, opening = fabric(side, generator), width * generator.uniform(0.15, 0.4)
        bottom = top + width * generator.uniform(0.6, 1.6)
        corners = np.array([[middle - opening, top - drop], [middle + opening, top - drop], [middle, bottom]])
        cloth = np.where(polygon(side, corners)[..., None] > 127, inner, cloth)
        if generator.random() < 0.5:
            half = np.array([0.25, 0.375]) * opening
            knot = np.stack([middle + np.outer([-1, 1], half).ravel()[[0, 2, 3, 1]], [top, top, bottom, bottom]], -1)
            cloth = np.where(polygon(side, knot)[..., None] > 127, fabric(side, generator), cloth)
    cover = alpha.astype(np.float32) / 255
    return (cloth * cover[..., None]).astype(np.float32), cover


def fabric(side: int, generator: np.random.Generator) -> np.ndarray:
    """A cloth [side, side, 3]: plain, striped or checked, with folds."""
    base = generator.random(3) ** generator.choice([0.5, 1, 3])
    cloth = np.broadcast_to(base, (side, side, 3)).astype(np.float32)
    y, x = np.mgrid[:side, :side].astype(np.float32)
    kind, pitch, angle = (
        generator.choice(["plain", "stripes", "checks"], p=[0.65, 0.2, 0.15]),
        generator.uniform(8, 60),
        generator.uniform(0, np.pi),
    )
    wave = np.sin((x * np.cos(angle) + y * np.sin(angle)) * 2 * np.pi / pitch)
    if kind == "checks":
        wave *= np.sin((y * np.cos(angle) - x * np.sin(angle)) * 2 * np.pi / pitch)
    if kind != "plain":
        other = generator.random(3).astype(np.float32)
        cloth = np.where(wave[..., None] > generator.uniform(-0.5, 0.9), other, cloth)
    folds = cv2.resize(generator.normal(0, 1, (9, 9)).astype(np.float32), (side, side), interpolation=cv2.INTER_CUBIC)
    return np.clip(cloth * (1 + 0.12 * folds[..., None]), 0, 1)
