"""Cameras and crops. OpenCV axes, metres, pixels with pixel centres at +0.5."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Camera:
    """V pinhole cameras of one picture size; world = head space (+y up, face towards +z)."""

    cam2world: np.ndarray  # [V, 4, 4] float64, OpenCV (x right, y down, z forward)
    intrinsics: np.ndarray  # [V, 3, 3] float64, pixels
    width: int
    height: int

    def __post_init__(self) -> None:
        cam2world = np.asarray(self.cam2world, np.float64)
        intrinsics = np.asarray(self.intrinsics, np.float64)
        if cam2world.ndim == 2:
            cam2world = cam2world[None]
        if intrinsics.ndim == 2:
            intrinsics = intrinsics[None]
        intrinsics = np.broadcast_to(intrinsics, (len(cam2world), 3, 3))
        if cam2world.shape[1:] != (4, 4):
            raise ValueError(f"cam2world must be [V, 4, 4], not {cam2world.shape}")
        object.__setattr__(self, "cam2world", cam2world)
        object.__setattr__(self, "intrinsics", np.ascontiguousarray(intrinsics))

    def __len__(self) -> int:
        return len(self.cam2world)

    def __getitem__(self, index: int | slice) -> "Camera":
        item = slice(index, index + 1 or None) if isinstance(index, int) else index
        return Camera(self.cam2world[item], self.intrinsics[item], self.width, self.height)

    @property
    def world2cam(self) -> np.ndarray:  # [V, 4, 4]
        """Inverse of the rigid `cam2world`."""
        rotation = self.cam2world[:, :3, :3].transpose(0, 2, 1)
        result = np.tile(np.eye(4), (len(self), 1, 1))
        result[:, :3, :3] = rotation
        result[:, :3, 3] = -(rotation @ self.cam2world[:, :3, 3:])[..., 0]
        return result

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pixels [V, N, 2] and depths [V, N] of world points [N, 3] or [V, N, 3]."""
        world2cam = self.world2cam
        camera_points = points @ world2cam[:, :3, :3].transpose(0, 2, 1) + world2cam[:, None, :3, 3]
        depth = camera_points[..., 2]
        pixels = camera_points @ self.intrinsics.transpose(0, 2, 1)
        return pixels[..., :2] / pixels[..., 2:], depth

    def cropped(self, crop: "Crop") -> "Camera":
        """The same cameras for the pixels of `crop`."""
        return Camera(self.cam2world, crop.intrinsics(self.intrinsics), crop.width, crop.height)


@dataclass(frozen=True)
class Crop:
    """A square or rectangular window of a picture, resampled: moves pixels and intrinsics together.

    A source point p lands at `(p - origin) * scale`; the window may leave the picture.
    """

    origin: tuple[float, float]  # x, y of the window's top left corner, source pixels
    scale: float  # output pixels per source pixel
    width: int  # output size
    height: int

    @staticmethod
    def square(centre: tuple[float, float], side: float, size: int) -> "Crop":
        """The window of `side` source pixels around `centre`, resampled to `size` x `size`."""
        return Crop((centre[0] - side / 2, centre[1] - side / 2), size / side, size, size)

    def points(self, points: np.ndarray) -> np.ndarray:
        """Source pixels [..., 2] to crop pixels."""
        return (np.asarray(points, np.float64) - self.origin) * self.scale

    def points_back(self, points: np.ndarray) -> np.ndarray:
        """Crop pixels [..., 2] to source pixels."""
        return np.asarray(points, np.float64) / self.scale + self.origin

    def intrinsics(self, intrinsics: np.ndarray) -> np.ndarray:
        """Source intrinsics [..., 3, 3] to crop intrinsics."""
        matrix = np.diag([self.scale, self.scale, 1.0])
        matrix[:2, 2] = -np.asarray(self.origin) * self.scale
        return matrix @ intrinsics

    def image(self, image: np.ndarray, border: float | None = 1.0) -> np.ndarray:
        """The window of `image` [H, W] or [H, W, C] float32; outside it `border`, or its outermost pixels if None.

        Area-averaged when shrinking.
        """
        import cv2

        if self.scale < 1:  # cv2.warpAffine does not prefilter: shrink by areas first
            height, width = image.shape[:2]
            small = (max(1, round(width * self.scale)), max(1, round(height * self.scale)))
            image = cv2.resize(image, small, interpolation=cv2.INTER_AREA)
            scale = np.array([small[0] / width, small[1] / height])
        else:
            scale = np.ones(2)
        rest = self.scale / scale
        # cv2 puts pixel centres at integers, we at +0.5
        shift = -np.asarray(self.origin) * self.scale + 0.5 * rest - 0.5
        matrix = np.array([[rest[0], 0, shift[0]], [0, rest[1], shift[1]]])
        return cv2.warpAffine(
            image,
            matrix,
            (self.width, self.height),
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE if border is None else cv2.BORDER_CONSTANT,
            borderValue=(border or 0.0,) * 4,
        )


def look_at(eye: np.ndarray, target: np.ndarray) -> np.ndarray:
    """cam2world [4, 4] of an OpenCV camera at `eye` that sees `target` in its centre, +y of the world up."""
    forward = np.asarray(target, np.float64) - np.asarray(eye, np.float64)
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, [0.0, 1.0, 0.0])
    right /= np.linalg.norm(right)
    matrix = np.eye(4)
    matrix[:3, 0], matrix[:3, 1], matrix[:3, 2], matrix[:3, 3] = right, np.cross(forward, right), forward, eye
    return matrix
