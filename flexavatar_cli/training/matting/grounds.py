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


def cluttered(ground: np.ndarray, generator: np.random.Generator) -> None:
    """Put what stands about in portraits before a ground [side, side, 3]: flags, frames, shelves, blinds. In place."""
    side = len(ground)
    for _ in range(int(generator.integers(1, 4))):
        wide, tall = (generator.uniform(0.08, 0.5, 2) * side).astype(int) + 4
        left = int(generator.integers(-wide // 2, side - wide // 2))
        top = int(generator.integers(-tall // 2, side - tall // 2))
        kind = generator.choice(
            ["flag", "frame", "shelf", "blind", "cloth", "post"], p=[0.35, 0.15, 0.15, 0.1, 0.1, 0.15]
        )
        if kind == "post":
            wide = max(4, wide // 3)
        if kind in ("flag", "cloth", "post"):  # hangs down to the floor or behind the shoulder
            tall = side - top if generator.random() < 0.8 else tall
        things = {"flag": flag, "frame": frame, "shelf": shelf, "blind": blind, "cloth": drapery, "post": post}
        thing = things[kind](int(tall), int(wide), generator)
        if generator.random() < 0.4:
            thing = cv2.GaussianBlur(thing, (0, 0), side / 256 * generator.uniform(0.3, 4))
        y0, x0 = max(top, 0), max(left, 0)
        part = thing[y0 - top : side - top, x0 - left : side - left]
        ground[y0 : y0 + part.shape[0], x0 : x0 + part.shape[1]] = part
    np.clip(ground, 0, 1, out=ground)


def drapery(tall: int, wide: int, generator: np.random.Generator) -> np.ndarray:
    """A hanging cloth [tall, wide, 3]: one colour under folds."""
    return random_colour(generator) * folds(tall, wide, generator)[1][..., None]


def folds(tall: int, wide: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Where hanging cloth is seen, and how bright: sideways shifts in pixels and gains, [tall, wide] each."""
    y, x = np.mgrid[:tall, :wide].astype(np.float32)
    pitch, lean = wide / generator.uniform(1, 6), generator.normal(0, 0.15)
    phase = (x + lean * y) * 2 * np.pi / pitch + generator.uniform(0, 6) + 0.6 * np.sin(y / tall * 5)
    return 0.25 * pitch * np.sin(phase), 1 + generator.uniform(0.1, 0.5) * np.sin(phase + 1).astype(np.float32)


def flag(tall: int, wide: int, generator: np.random.Generator) -> np.ndarray:
    """A draped flag [tall, wide, 3]: stripes or fields of strong colours, perhaps stars, a fringe and folds."""
    strong = [(0.7, 0.08, 0.12), (0.93, 0.93, 0.9), (0.07, 0.12, 0.4), (0.9, 0.75, 0.1), (0.05, 0.4, 0.2)]
    colours = np.array([*strong, tuple(generator.random(3))], np.float32)[generator.permutation(6)[:3]]
    shift, gain = folds(tall, wide, generator)
    y, x = np.mgrid[:tall, :wide].astype(np.float32)
    angle = generator.choice([0.0, np.pi / 2, generator.uniform(0, np.pi)], p=[0.3, 0.4, 0.3])
    along = (x + shift) * np.cos(angle) + (y + 0.7 * shift) * np.sin(angle)
    pitch = generator.uniform(0.06, 0.5) * max(wide, tall / 2)
    cloth = colours[(np.floor(along / pitch) % generator.integers(2, 4)).astype(int)]
    if generator.random() < 0.5:  # a field with stars
        field = (y + 0.5 * shift < tall * generator.uniform(0.3, 0.6)) & (
            x + shift < wide * generator.uniform(0.4, 1.1)
        )
        cell = max(4.0, pitch * generator.uniform(0.5, 1))
        star = np.hypot((x + shift) % cell - cell / 2, (y + shift) % cell - cell / 2) < cell * 0.25
        cloth = np.where((field & star)[..., None], colours[1], np.where(field[..., None], colours[2], cloth))
    if generator.random() < 0.3:
        cloth[np.abs(x - wide + 1) < max(2, 0.04 * wide)] = (0.8, 0.65, 0.2)
    return np.clip(cloth * gain[..., None], 0, 1).astype(np.float32)


def post(tall: int, wide: int, generator: np.random.Generator) -> np.ndarray:
    """A round post [tall, wide, 3] lit from a side, of a few colours one above the other: a lamp, a rocket."""
    across = np.linspace(-1, 1, wide, dtype=np.float32) - np.float32(generator.uniform(-0.7, 0.7))
    shade = 1 - np.float32(generator.uniform(0.2, 0.6)) * across**2
    bands = np.array([random_colour(generator) for _ in range(int(generator.integers(1, 5)))])
    places = np.sort(generator.random(len(bands)))
    rows = np.searchsorted(places, np.linspace(0, 1, tall)).clip(0, len(bands) - 1)
    return np.clip(bands[rows][:, None] * shade[:, None], 0, 1).astype(np.float32)


def frame(tall: int, wide: int, generator: np.random.Generator) -> np.ndarray:
    """A picture in its frame [tall, wide, 3]."""
    thing = np.empty((tall, wide, 3), np.float32)
    thing[:] = random_colour(generator)
    for share in sorted(generator.uniform(0.02, 0.25, 2)):
        rim = max(1, int(share * min(tall, wide)))
        inner = thing[rim : tall - rim, rim : wide - rim]
        inner[:] = random_colour(generator)
    if inner.size and generator.random() < 0.6:
        inner[:] = cv2.resize(painted(64, generator), inner.shape[1::-1])
    return thing


def shelf(tall: int, wide: int, generator: np.random.Generator) -> np.ndarray:
    """Rows of books [tall, wide, 3]."""
    thing = np.empty((tall, wide, 3), np.float32)
    thing[:] = random_colour(generator)
    rows = int(generator.integers(1, 5))
    for row in range(rows):
        low, x = int((row + 0.93) * tall / rows), 0
        while x < wide:
            thick = max(2, int(wide * generator.uniform(0.02, 0.1)))
            high = low - int(tall / rows * generator.uniform(0.55, 0.88))
            thing[max(high, 0) : low, x : x + thick] = random_colour(generator)
            x += thick + int(generator.random() < 0.2)
    return thing


def blind(tall: int, wide: int, generator: np.random.Generator) -> np.ndarray:
    """Slats, bricks or panes [tall, wide, 3]."""
    thing = np.empty((tall, wide, 3), np.float32)
    thing[:] = random_colour(generator)
    line, pitch = random_colour(generator), max(3, int(tall * generator.uniform(0.04, 0.3)))
    width = max(1, int(pitch * generator.uniform(0.1, 0.4)))
    for number, y in enumerate(range(0, tall, pitch)):
        thing[y : y + width] = line
        if generator.random() < 0.5:
            thing[y : y + pitch, (number % 2) * pitch :: 2 * pitch] = line
    return thing


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
