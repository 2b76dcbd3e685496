"""Grounds to put people before: painted rooms, gradients, flags, lettering, and what stands behind real people."""

import cv2
import numpy as np

WORDS = "OFFICE NEWS 24 EXIT LIBRE HALLO 2026 STUDIO LIVE AVE"


def random_colour(generator: np.random.Generator) -> np.ndarray:
    """A colour [3], dark, mid and bright alike often, seldom vivid."""
    grey = generator.random() ** generator.choice([0.4, 1, 2.5])
    return np.clip(grey + generator.normal(0, 1, 3) * generator.choice([0.02, 0.1, 0.3]), 0, 1).astype(np.float32)


def smooth_field(side: int, cells: int, generator: np.random.Generator) -> np.ndarray:
    """Random smooth values [side, side] of unit variance, `cells` of them across."""
    coarse = generator.normal(0, 1, (cells, cells)).astype(np.float32)
    return cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)


def painted(side: int, generator: np.random.Generator) -> np.ndarray:
    """A painted ground [side, side, 3]."""
    ground = random_colour(generator) + 0.5 * generator.random() * (
        smooth_field(side, int(generator.integers(2, 4)), generator)[..., None] * (random_colour(generator) - 0.5)
    )
    kind = generator.choice(["plain", "clouds", "room", "stripes"], p=[0.3, 0.2, 0.35, 0.15])
    ground = np.ascontiguousarray(ground, np.float32)
    if kind == "clouds":
        for cells in (4, 9, 20, 50):
            ground += 0.15 * smooth_field(side, cells, generator)[..., None] * random_colour(generator)
    elif kind == "room":
        for _ in range(int(generator.integers(2, 18))):
            draw(ground, generator)
    elif kind == "stripes":
        y, x = np.mgrid[:side, :side].astype(np.float32)
        angle, pitch = generator.uniform(0, np.pi), side / generator.uniform(2, 25)
        bend = 0.3 * pitch * smooth_field(side, 4, generator)
        wave = np.sin((x * np.cos(angle) + y * np.sin(angle) + bend) * 2 * np.pi / pitch)
        ground = np.where(wave[..., None] > generator.uniform(-0.7, 0.7), random_colour(generator), ground)
    if generator.random() < 0.7:
        ground = cv2.GaussianBlur(ground, (0, 0), side / 256 * generator.uniform(0.3, 10))
    return np.clip(ground, 0, 1)


def draw(ground: np.ndarray, generator: np.random.Generator) -> None:
    """Draw one thing of a room: a board, a line, a disc, a word. In place."""
    side = len(ground)
    first, second = (tuple(int(v) for v in generator.integers(-side // 8, side * 9 // 8, 2)) for _ in range(2))
    colour, thick = tuple(float(v) for v in random_colour(generator)), int(generator.integers(1, max(2, side // 25)))
    kind = generator.choice(["board", "line", "disc", "word", "tuft"], p=[0.4, 0.2, 0.15, 0.1, 0.15])
    if kind == "board":
        cv2.rectangle(ground, first, second, colour, -1 if generator.random() < 0.7 else thick)
    elif kind == "line":
        cv2.line(ground, first, second, colour, thick, cv2.LINE_AA)
    elif kind == "disc":
        cv2.circle(ground, first, int(generator.integers(3, side // 4)), colour, -1, cv2.LINE_AA)
    elif kind == "word":
        word = generator.choice(WORDS.split())
        cv2.putText(ground, word, first, cv2.FONT_HERSHEY_DUPLEX, side / 250 * generator.uniform(0.5, 3), colour, thick)
    else:  # thin lines such as leaves, so that not every strand is hair
        for _ in range(int(generator.integers(5, 40))):
            end = tuple(int(v) for v in np.array(first) + generator.normal(0, side / 10, 2))
            cv2.line(ground, first, end, colour, 1, cv2.LINE_AA)


def behind(rgb: np.ndarray, labels: np.ndarray, side: int, generator: np.random.Generator) -> np.ndarray:
    """What stands behind a real person [side, side, 3]: the hole is filled with the surroundings' mean.

    `rgb` is uint8 [H, W, 3], `labels` uint8 [H, W] with 0 for the ground.
    """
    known = (labels == 0).astype(np.float32)
    picture = rgb.astype(np.float32) / 255
    spread = len(rgb) / 6
    small = tuple(max(1, length // 4) for length in rgb.shape[1::-1])
    blurred = cv2.GaussianBlur(
        cv2.resize(picture * known[..., None], small, interpolation=cv2.INTER_AREA), (0, 0), spread / 4
    )
    share = cv2.GaussianBlur(cv2.resize(known, small, interpolation=cv2.INTER_AREA), (0, 0), spread / 4)
    fill = cv2.resize(blurred / np.maximum(share, 1e-3)[..., None], rgb.shape[1::-1])
    soft = cv2.GaussianBlur(known, (0, 0), 2)[..., None] * known[..., None]
    picture = soft * picture + (1 - soft) * fill
    zoom = generator.uniform(1, 2) * side / len(rgb)
    place = np.array([[zoom, 0, -generator.random() * (zoom * len(rgb) - side)], [0, zoom, 0]], np.float32)
    picture = np.asarray(cv2.warpAffine(picture, place, (side, side), borderMode=cv2.BORDER_REFLECT), np.float32)
    if generator.random() < 0.5:
        picture = picture[:, ::-1]
    if generator.random() < 0.4:
        picture = np.asarray(cv2.GaussianBlur(picture, (0, 0), generator.uniform(0.5, 6)), np.float32)
    return np.clip(picture, 0, 1)
