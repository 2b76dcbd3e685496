"""A head: template surface, linear identity and expression shapes, turning eyeballs, landmarks, atlas."""

from dataclasses import dataclass, field, fields, replace

import torch
from torch import Tensor

from flexavatar_cli.core.errors import WeightsError
from flexavatar_cli.core.expression import ARKIT_NAMES, EXPRESSION_NAMES, GAZE_NAMES, INDEX
from flexavatar_cli.heads.texels import TexelGrid, texel_grid

PART_NAMES = (
    "face", "scalp", "neck", "bust", "mouth_socket", "gums", "tongue", "teeth",
    "eyeball_left", "eyeball_right", "eye_sockets",
)  # fmt: skip
JOINT_NAMES = ("neck", "jaw", "eye_left", "eye_right")
LANDMARKS = 478  # MediaPipe face mesh with irises


@dataclass(frozen=True)
class HeadModel:
    """V vertices in metres, head space (+y up, face to +z, subject's left = +x); K identity shapes."""

    name: str
    digest: str  # sha256 of the file the arrays came from
    template: Tensor  # [V, 3] float32
    faces: Tensor  # [F, 3] int64, counter-clockwise from outside
    uv: Tensor  # [W, 2] float32 in 0..1, v down: row = v * R
    faces_uv: Tensor  # [F, 3] int64
    face_part: Tensor  # [F] int64
    part_names: tuple[str, ...]
    identity_basis: Tensor  # [K, V, 3] float32, coefficients about N(0, 1)
    expression_basis: Tensor  # [52, V, 3] float32, ARKit order
    eye_vertices: Tensor  # [2, V] bool, left then right
    landmark_face: Tensor  # [478] int64
    landmark_bary: Tensor  # [478, 3] float32
    landmark_sigma: Tensor  # [478] float32, fraction of the outer-eye distance
    landmark_used: Tensor  # [478] bool
    joints: dict[str, Tensor]  # name -> [3]
    scalp_weight: Tensor  # [V] float32, 1 where hair grows
    expression_names: tuple[str, ...] = EXPRESSION_NAMES
    ear_light: Tensor | None = None  # [R, R] in 0..1, in the atlas: ambient occlusion about the ears
    cache: dict = field(default_factory=dict, repr=False, compare=False)  # grids and sparse matrices made on demand

    def __post_init__(self) -> None:
        vertices, triangles, corners = len(self.template), len(self.faces), len(self.uv)
        identities = len(self.identity_basis)
        shapes: dict[str, tuple[int, ...]] = {
            "template": (vertices, 3), "faces": (triangles, 3), "uv": (corners, 2), "faces_uv": (triangles, 3),
            "face_part": (triangles,), "identity_basis": (identities, vertices, 3),
            "expression_basis": (len(ARKIT_NAMES), vertices, 3), "eye_vertices": (2, vertices),
            "landmark_face": (LANDMARKS,), "landmark_bary": (LANDMARKS, 3), "landmark_sigma": (LANDMARKS,),
            "landmark_used": (LANDMARKS,), "scalp_weight": (vertices,),
        }  # fmt: skip
        for name, shape in shapes.items():
            value: Tensor = getattr(self, name)
            if tuple(value.shape) != shape:
                raise WeightsError(f"head model: {name} must be {shape}, not {tuple(value.shape)}")
            if value.is_floating_point() and not torch.isfinite(value).all():
                raise WeightsError(f"head model: {name} has values that are not finite")
        limits = {"faces": vertices, "faces_uv": corners, "landmark_face": triangles, "face_part": len(self.part_names)}
        for name, limit in limits.items():
            value = getattr(self, name)
            if value.numel() == 0 or value.min() < 0 or value.max() >= limit:
                raise WeightsError(f"head model: {name} points outside its table of {limit}")
        missing = [name for name in JOINT_NAMES if name not in self.joints]
        if missing:
            raise WeightsError(f"head model: joints lack {', '.join(missing)}")

    def __len__(self) -> int:
        return len(self.template)

    @property
    def device(self) -> torch.device:
        """Where the arrays live."""
        return self.template.device

    def to(self, device: torch.device | str) -> "HeadModel":
        """The same head on `device`."""
        moved = {f.name: getattr(self, f.name) for f in fields(self)}
        moved = {name: value.to(device) for name, value in moved.items() if isinstance(value, Tensor)}
        joints = {name: value.to(device) for name, value in self.joints.items()}
        return replace(self, **moved, joints=joints, cache={})

    def texels(self, resolution: int) -> TexelGrid:
        """The atlas' texels at `resolution`, made once."""
        key = f"texels_{resolution}"
        if key not in self.cache:
            grid = texel_grid(
                self.template, self.faces, self.uv, self.faces_uv, self.face_part, self.part_names, resolution
            )
            self.cache[key] = grid.to(self.device)
        return self.cache[key]

    def vertices(
        self,
        identity: Tensor | None,  # [..., k <= K]; None = the mean head
        expression: Tensor | None,  # [..., 59]; None = neutral
    ) -> Tensor:  # [..., V, 3] metres
        """Shapes added linearly, then each eyeball turned about its own identity-moved centre by the gaze angles.

        Leading axes broadcast. Head angles do nothing: rigid motion lives in the camera.
        """
        moved = self.template
        if identity is not None:
            moved = moved + _combine(identity, self.identity_basis)
        if expression is None:
            return moved
        posed = moved + _combine(expression[..., : len(ARKIT_NAMES)], self.expression_basis)
        return self._turn_eyes(posed, self.eye_centres(identity), expression)

    def eye_centres(self, identity: Tensor | None) -> Tensor:
        """Centres [..., 2, 3] of the left and right eyeball."""
        centres = torch.stack([self.joints["eye_left"], self.joints["eye_right"]])
        if identity is None:
            return centres
        if "eye_basis" not in self.cache:
            weights = self.eye_vertices.to(self.template.dtype)
            weights = weights / weights.sum(-1, keepdim=True).clamp_min(1)
            self.cache["eye_basis"] = torch.einsum("ev,kvc->kec", weights, self.identity_basis)
        return centres + _combine(identity, self.cache["eye_basis"])

    def landmarks(self, vertices: Tensor) -> Tensor:
        """MediaPipe's 478 points [..., 478, 3] on the surface with `vertices` [..., V, 3]."""
        corners = vertices[..., self.faces[self.landmark_face], :]
        return (corners * self.landmark_bary[..., None].to(vertices.dtype)).sum(-2)

    def _turn_eyes(self, vertices: Tensor, centres: Tensor, expression: Tensor) -> Tensor:
        gaze = expression[..., [INDEX[name] for name in GAZE_NAMES]].unflatten(-1, (2, 2))  # [..., eye, yaw/pitch]
        rotation = _gaze_rotation(gaze)  # [..., 2, 3, 3]
        if "eye_index" not in self.cache:
            self.cache["eye_index"] = [torch.nonzero(mask)[:, 0] for mask in self.eye_vertices]
        for eye, index in enumerate(self.cache["eye_index"]):
            centre = centres[..., eye, None, :]
            arm = vertices[..., index, :] - centre
            turned = arm @ rotation[..., eye, :, :].mT + centre
            vertices = vertices.index_copy(-2, index, turned)
        return vertices


def _gaze_rotation(gaze: Tensor) -> Tensor:
    """R_y(yaw) R_x(-pitch) [..., 3, 3] of angles [..., 2] in radians: +z turns to the subject's left and up."""
    yaw, pitch = gaze.unbind(-1)
    sy, cy, sp, cp = torch.sin(yaw), torch.cos(yaw), torch.sin(pitch), torch.cos(pitch)
    zero = torch.zeros_like(yaw)
    rows = [(cy, -sy * sp, sy * cp), (zero, cp, sp), (-sy, -cy * sp, cy * cp)]
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def _combine(coefficients: Tensor, basis: Tensor) -> Tensor:
    """Sum of basis [K, V, 3] weighted by coefficients [..., k]; missing trailing ones count as 0."""
    count = coefficients.shape[-1]
    if count > len(basis):
        raise ValueError(f"{count} coefficients for {len(basis)} shapes")
    flat = basis[:count].reshape(count, -1)
    return (coefficients.to(basis.dtype) @ flat).unflatten(-1, basis.shape[1:])
