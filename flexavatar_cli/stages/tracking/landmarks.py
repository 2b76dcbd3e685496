"""The 478 face points of every frame, by the MediaPipe FaceMesh models inside the pinned wheel.

A face is searched once in the whole picture (also padded, in tiles and turned, so that faces at the border, small
and lying ones are found), then followed through a square `View` that keeps it upright and about 210 px tall.
Square, because FaceMesh misplaces rolled faces in oblong pictures; tall, because it sees 192 px at most.
"""

import dataclasses
import logging
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from flexavatar_cli.core.errors import InputError, UsageError
from flexavatar_cli.core.quiet import native_silence

log = logging.getLogger(__name__)

BROW_TOP, CHIN = 10, 152  # their distance is the face height
EYES_OUTER = (33, 263)  # subject's right, left; their distance is the unit of all landmark errors (IOD)
VIEW_SIZE = 512  # pixels of the square picture that FaceMesh sees
VIEW_SIDE = 2.4  # side of the view, face heights: the detector wants some surroundings
MOST_FACES = 8
SAME_FACE = 0.07  # outer-eye distances between looks at one face


@dataclass(frozen=True)
class View:
    """A square window of a picture, turned by `angle` radians (clockwise as seen), resampled to `size` pixels."""

    centre: tuple[float, float]  # source pixels
    side: float  # source pixels
    angle: float = 0.0
    size: int = VIEW_SIZE

    def _axes(self) -> np.ndarray:  # [2, 2], columns = the view's x and y axes in source pixels, per view pixel
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        return np.array([[cos, -sin], [sin, cos]]) * (self.side / self.size)

    def points_back(self, points: np.ndarray) -> np.ndarray:
        """View pixels [..., 2] to source pixels."""
        return (np.asarray(points, np.float64) - self.size / 2) @ self._axes().T + self.centre

    def points(self, points: np.ndarray) -> np.ndarray:
        """Source pixels [..., 2] to view pixels."""
        return (np.asarray(points, np.float64) - self.centre) @ np.linalg.inv(self._axes()).T + self.size / 2

    def image(self, image: np.ndarray) -> np.ndarray:  # [size, size, 3] uint8
        """What the window shows of `image` [H, W, 3] uint8; beyond the picture its edge pixels are repeated."""
        import cv2

        axes = self._axes()
        origin = np.asarray(self.centre) - axes @ np.full(2, self.size / 2)
        shrink = self.side / self.size
        if shrink > 1.5:  # warpAffine does not prefilter
            height, width = image.shape[:2]
            small = (max(1, round(width / shrink)), max(1, round(height / shrink)))
            image = cv2.resize(image, small, interpolation=cv2.INTER_AREA)
            factor = np.array([small[0] / width, small[1] / height])
            axes, origin = axes * factor[:, None], origin * factor
        # cv2 puts pixel centres at integers, we at +0.5
        shift = origin + axes @ np.full(2, 0.5) - 0.5
        return cv2.warpAffine(
            image,
            np.column_stack([axes, shift]),
            (self.size, self.size),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )


def face_height(points: np.ndarray) -> np.ndarray:
    """Distance of brow top and chin of landmarks [..., 478, 2], in their pixels."""
    return np.linalg.norm(points[..., BROW_TOP, :] - points[..., CHIN, :], axis=-1)


def eye_distance(points: np.ndarray) -> np.ndarray:
    """Distance of the outer eye corners of landmarks [..., 478, 2], in their pixels."""
    return np.linalg.norm(points[..., EYES_OUTER[0], :] - points[..., EYES_OUTER[1], :], axis=-1)


def view_of(points: np.ndarray) -> View:
    """The view that shows the face of landmarks [478, 2] upright in its middle."""
    down = points[CHIN] - points[BROW_TOP]
    angle = math.atan2(-down[0], down[1])
    centre = (points[CHIN] + points[BROW_TOP]) / 2
    side = VIEW_SIDE * max(float(face_height(points)), 1.2 * float(eye_distance(points)), 4.0)
    upright = abs(angle) < math.radians(20)
    return View((float(centre[0]), float(centre[1])), side, 0.0 if upright else angle)


class FaceMesh:
    """MediaPipe FaceMesh with irises, on square uint8 pictures. `still` detects in each picture, else it follows."""

    def __init__(self, faces: int, still: bool) -> None:
        os.environ.setdefault("GLOG_minloglevel", "3")
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        self._options = {"static_image_mode": still, "max_num_faces": faces, "refine_landmarks": True}
        self._mesh: Any = None
        self._stale = True

    def __call__(self, picture: np.ndarray) -> np.ndarray:  # [faces, 478, 2] pixels of the picture
        if self._stale:
            with native_silence():  # its threads talk from the start of the graph to the end of the first picture
                if self._mesh is None:
                    from mediapipe.python.solutions import face_mesh

                    self._mesh = face_mesh.FaceMesh(**self._options)
                else:
                    self._mesh.reset()
                result = self._mesh.process(picture)
            self._stale = False
        else:
            result = self._mesh.process(picture)
        found = result.multi_face_landmarks or []
        points = [[(p.x, p.y) for p in face.landmark] for face in found]
        return np.array(points, np.float64).reshape(-1, 478, 2) * picture.shape[0]

    def reset(self) -> None:
        """Forget the faces followed so far."""
        self._stale = True

    def close(self) -> None:
        """Free the graph."""
        if self._mesh is not None:
            with native_silence():
                self._mesh.close()
        self._mesh, self._stale = None, True


def _search_views(width: int, height: int, thorough: bool) -> Iterator[list[View]]:
    """Groups of views in which a face is looked for, until one group shows some."""
    middle, side = (width / 2, height / 2), float(max(width, height))
    yield [View(middle, side)]
    yield [View(middle, 1.6 * side)]  # faces that fill the picture or touch its border
    if not thorough:
        return
    for tiles in (2, 4):
        part = max(width, height) / tiles
        if part < 48:
            break
        steps = [np.arange(part / 2, max(length - part / 2, part / 2) + 1, part / 2) for length in (width, height)]
        yield [View((float(x), float(y)), 1.2 * part) for y in steps[1] for x in steps[0]]
    yield [View(middle, scale * side, turn * math.pi / 2) for scale in (1.0, 1.6) for turn in (1, 3, 2)]


def find_faces(image: np.ndarray, mesh: FaceMesh, thorough: bool = True, at_least: int = 1) -> np.ndarray:
    """Landmarks [faces, 478, 2] of the faces seen in `image` [H, W, 3] uint8, from left to right.

    Looks on, group of views by group of views, until `at_least` faces are known.
    """
    known: list[np.ndarray] = []
    height, width = image.shape[:2]
    for views in _search_views(width, height, thorough):
        for view in views:
            picture = view.image(image)
            for points in mesh(picture):
                face = view.points_back(points)
                centre, size = face.mean(0), float(face_height(face))
                inside = 0 <= centre[0] <= width and 0 <= centre[1] <= height
                new = all(np.linalg.norm(centre - other.mean(0)) > 0.5 * size for other in known)
                if inside and new and _confirmed(image, face, mesh):
                    known.append(face)
        if len(known) >= at_least:
            break
    return np.array(sorted(known, key=lambda face: float(face[:, 0].mean()))).reshape(-1, 478, 2)


def _confirmed(image: np.ndarray, face: np.ndarray, mesh: FaceMesh) -> bool:
    """Whether slightly turned views show the same landmarks [478, 2].

    On heads upside down, and on things, they differ by 8-22 %IOD, on faces by less than 1.
    """
    view = view_of(face)
    looks = []
    for turn in (-0.12, 0.12):
        turned = dataclasses.replace(view, angle=view.angle + turn)
        seen = [turned.points_back(points) for points in mesh(turned.image(image))]
        if not seen:
            return False
        looks.append(min(seen, key=lambda points: float(np.linalg.norm(points.mean(0) - face.mean(0)))))
    error = np.linalg.norm(looks[0] - looks[1], axis=-1).mean() / max(float(eye_distance(face)), 1e-6)
    return bool(error < SAME_FACE)


class FaceFollower:
    """Follows one face from frame to frame; the only state of landmark finding. Use as a context manager."""

    def __init__(self, face: str = "largest", passes: int = 1) -> None:
        """`face`: "largest", or its number from the left of the first frame with faces, from 0.

        `passes` looks per frame, each from a slightly other view, are averaged.
        """
        if face != "largest" and not face.isdecimal():
            raise UsageError(f"--face must be 'largest' or a number, not {face!r}")
        self._wanted = None if face == "largest" else int(face)
        self._passes = passes
        self._search = FaceMesh(MOST_FACES, still=True)
        self._follow: FaceMesh | None = None
        self._view: View | None = None
        self._last: np.ndarray | None = None  # [478, 2] where the face was last seen
        self._lost = 0  # frames since then
        self._people = 0  # most faces seen in one frame

    def __enter__(self) -> "FaceFollower":
        return self

    def __exit__(self, *_: object) -> None:
        self._search.close()
        if self._follow is not None:
            self._follow.close()

    def __call__(self, image: np.ndarray) -> np.ndarray | None:  # [478, 2] float64, source pixels
        """The chosen face's landmarks in `image` [H, W, 3] uint8, or None if it is not seen.

        Raises InputError if the face number asked for is not there.
        """
        points = None
        if self._last is not None and not self._lost:
            points = self._look(image, self._last)
            if points is not None and self._view is not None and not _framed(self._view, points):
                points = self._settle(image, points)
        if points is None:
            found = self._find(image)
            points = None if found is None else self._settle(image, found)
        if points is None:
            self._lost += 1
            return None
        if self._passes > 1:
            points = self._average(image, points)
        self._last, self._lost = points, 0
        return points

    def _find(self, image: np.ndarray) -> np.ndarray | None:
        """The chosen face [478, 2], searched in the whole picture."""
        if self._last is None:
            return self._choose(find_faces(image, self._search, at_least=(self._wanted or 0) + 1))
        faces = find_faces(image, self._search, thorough=False)
        if not len(faces):
            return None
        self._people = max(self._people, len(faces))
        distance = np.linalg.norm(faces.mean(1) - self._last.mean(0), axis=-1)
        nearest = int(distance.argmin())
        # the longer it was away, the farther it may have gone; alone it may come back anywhere
        reach = float(face_height(self._last)) * (1 + 0.1 * self._lost)
        return faces[nearest] if self._people == 1 or distance[nearest] < reach else None

    def _choose(self, faces: np.ndarray) -> np.ndarray | None:
        if not len(faces):
            return None
        self._people = len(faces)
        if self._wanted is None:
            if len(faces) > 1:
                log.warning("%d faces seen: the largest is taken (--face 0..%d for others)", len(faces), len(faces) - 1)
            return faces[int(face_height(faces).argmax())]
        if self._wanted >= len(faces):
            raise InputError(
                f"face {self._wanted} was asked for, but {len(faces)} seen (they count from 0 at the left)"
            )
        return faces[self._wanted]

    def _settle(self, image: np.ndarray, points: np.ndarray) -> np.ndarray | None:
        """The face near `points` [478, 2] from a fresh view: FaceMesh needs some looks to place its own window."""
        if self._follow is None:
            self._follow = FaceMesh(1 if self._people == 1 else 4, still=False)
        for _ in range(2):
            self._view = view_of(points)
            self._follow.reset()
            for _ in range(2):
                seen = self._look(image, points)
                if seen is None:
                    return None
                points = seen
            if _framed(self._view, points):
                break
        return points

    def _look(self, image: np.ndarray, near: np.ndarray) -> np.ndarray | None:
        """The face nearest to `near` [478, 2] as the view shows it, if it is within half a face."""
        assert self._follow is not None
        assert self._view is not None
        faces = self._follow(self._view.image(image))
        if not len(faces):
            return None
        faces = self._view.points_back(faces)
        distance = np.linalg.norm(faces.mean(1) - near.mean(0), axis=-1)
        nearest = int(distance.argmin())
        return faces[nearest] if distance[nearest] < 0.5 * face_height(near) else None

    def _average(self, image: np.ndarray, points: np.ndarray) -> np.ndarray:
        """Mean of looks from shifted, turned and scaled views: FaceMesh moves .2-.5 %IOD between equal views."""
        looks = [points]
        base = self._view
        assert base is not None
        for k in range(self._passes - 1):
            phase = k * 2.39996  # golden angle: even coverage for any number of passes
            centre = (
                base.centre[0] + 0.02 * base.side * math.cos(phase),
                base.centre[1] + 0.02 * base.side * math.sin(phase),
            )
            self._view = View(
                centre, base.side * (1 + 0.06 * math.sin(2 * phase)), base.angle + 0.06 * math.cos(3 * phase)
            )
            look = self._look(image, points)
            if look is not None:
                looks.append(look)
        self._view = base
        return np.mean(looks, axis=0)


def _framed(view: View, points: np.ndarray) -> bool:
    """Whether `view` still shows the face [478, 2] about as `view_of` would."""
    wanted = view_of(points)
    moved = float(np.hypot(*np.subtract(wanted.centre, view.centre))) > 0.12 * view.side
    turned = abs(math.remainder(wanted.angle - view.angle, math.tau)) > math.radians(25)
    return not moved and not turned and 0.75 < wanted.side / view.side < 1.33


def to_uint8(image: np.ndarray) -> np.ndarray:
    """RGB [H, W, 3] uint8 of a picture that is uint8, or float in 0..1."""
    if image.dtype == np.uint8:
        return np.ascontiguousarray(image[..., :3])
    return (np.clip(image[..., :3], 0, 1) * 255 + 0.5).astype(np.uint8)
