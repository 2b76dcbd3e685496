"""The published 135-d expression code and its 6-D rotations (SPEC 1, 6.1)."""

import numpy as np

EXPRESSIONS = 100  # FLAME expression coefficients in the code
PARTS = {
    "expression": slice(0, 100),
    "eye_left": slice(100, 106),
    "eye_right": slice(106, 112),
    "eyelids": slice(112, 114),
    "neck": slice(114, 120),
    "jaw": slice(120, 126),
    "head": slice(126, 132),  # global rotation of the tracker's frame
    "translation": slice(132, 135),  # metres
}
ROTATIONS = ("eye_left", "eye_right", "neck", "jaw", "head")
LENGTH = 135
FLAME_NAMES = tuple(
    f"{part}{number:02d}" for part, place in PARTS.items() for number in range(place.stop - place.start)
)


def neutral_code() -> np.ndarray:  # [135] float32
    """Zeros, and identity rotations."""
    code = np.zeros(LENGTH, np.float32)
    for part in ROTATIONS:
        code[PARTS[part]] = 1, 0, 0, 0, 1, 0
    return code


def expression_code(**parts: np.ndarray) -> np.ndarray:  # each [..., n] of PARTS -> [..., 135] float32
    """The code with the given parts and the rest neutral; 6-D rotations go in as they are, not normalised."""
    unknown = parts.keys() - PARTS.keys()
    if unknown:
        raise ValueError(f"no part of the code: {', '.join(sorted(unknown))}")
    shape = np.broadcast_shapes(*(np.shape(value)[:-1] for value in parts.values()), ())
    code = np.broadcast_to(neutral_code(), (*shape, LENGTH)).copy()
    for part, value in parts.items():
        code[..., PARTS[part]] = value
    return code


def rotation_from_6d(rows: np.ndarray) -> np.ndarray:  # [..., 6] -> [..., 3, 3]
    """Gram-Schmidt of the first two rows; the third is their cross product (SPEC 1)."""
    rows = np.asarray(rows)
    first, second = rows[..., :3], rows[..., 3:]
    first = first / np.linalg.norm(first, axis=-1, keepdims=True)
    second = second - (first * second).sum(-1, keepdims=True) * first
    second = second / np.linalg.norm(second, axis=-1, keepdims=True)
    return np.stack([first, second, np.cross(first, second)], -2)


def rotation_to_6d(matrix: np.ndarray) -> np.ndarray:  # [..., 3, 3] -> [..., 6]
    """The first two rows, flattened (SPEC 1)."""
    return np.asarray(matrix)[..., :2, :].reshape(*np.shape(matrix)[:-2], 6)


def proper_rotation(matrix: np.ndarray) -> np.ndarray:  # [..., 3, 3]
    """The nearest rotation, by SVD with the determinant forced to +1 (SPEC 10.2)."""
    left, _, right = np.linalg.svd(matrix)
    flip = np.linalg.det(left @ right)
    left = np.concatenate([left[..., :2], left[..., 2:] * flip[..., None, None]], -1)
    return left @ right
