"""The ICT-FaceKit head (MIT) as read from `ict_head.npz`, in our units, axes and expression order."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import scipy.sparse as sparse
from scipy.sparse.csgraph import connected_components

from flexavatar_cli.core.errors import InputError
from flexavatar_cli.core.expression import ARKIT_NAMES
from flexavatar_cli.heads.head_model import PART_NAMES

CENTIMETRE = 0.01
EYE_CENTRE = np.array([3.1041887, 3.60395, 7.8872967]) * CENTIMETRE  # left eye; the right one is mirrored in x
_MERGED = {"browInnerUp": ("browInnerUp_L", "browInnerUp_R"), "cheekPuff": ("cheekPuff_L", "cheekPuff_R")}


@dataclass(frozen=True)
class SourceHead:
    """A detailed head with all its shapes. A *wedge* is a vertex in one chart: the vertices of the UV mesh."""

    mean: np.ndarray  # [V, 3] float64 metres
    identity: np.ndarray  # [K, V, 3] float32, coefficients about N(0, 1)
    expression: np.ndarray  # [52, V, 3] float32, ARKit order
    wedges: np.ndarray  # [F, 3] wedge of each triangle corner
    vertex: np.ndarray  # [W] vertex of each wedge
    chart: np.ndarray  # [W] index into chart_names
    chart_names: tuple[str, ...]
    tile: np.ndarray  # [W] ICT UDIM tile, -1 where the ICT head has no surface
    tile_uv: np.ndarray  # [W, 2] inside the tile, v DOWN
    source_face: np.ndarray  # [F] row of `faces` in ict_head.npz, -1 for triangles we added
    vertex_part: np.ndarray  # [V] index into ict_parts, -1 for vertices we added

    @property
    def faces(self) -> np.ndarray:  # [F, 3]
        """Vertices of the triangles."""
        return self.vertex[self.wedges]

    @property
    def face_chart(self) -> np.ndarray:  # [F]
        """Chart index of the triangles."""
        return self.chart[self.wedges[:, 0]]

    def in_chart(self, *names: str) -> np.ndarray:
        """Triangles [F] bool of the named charts."""
        return np.isin(self.face_chart, [self.chart_names.index(name) for name in names])

    def compact(self, keep_faces: np.ndarray) -> "SourceHead":
        """Only the triangles [F] bool, and the vertices and wedges they use."""
        used, wedges = np.unique(self.wedges[keep_faces], return_inverse=True)
        kept, vertex = np.unique(self.vertex[used], return_inverse=True)
        return replace(
            self,
            mean=self.mean[kept],
            identity=self.identity[:, kept],
            expression=self.expression[:, kept],
            wedges=wedges.reshape(-1, 3),
            vertex=vertex,
            chart=self.chart[used],
            tile=self.tile[used],
            tile_uv=self.tile_uv[used],
            source_face=self.source_face[keep_faces],
            vertex_part=self.vertex_part[kept],
        )


@dataclass(frozen=True)
class IctFile:
    """`ict_head.npz` as far as it is needed again after reading."""

    mean: np.ndarray  # [V, 3] metres
    faces: np.ndarray  # [F, 3]
    part_names: tuple[str, ...]


def read_ict(data: Path) -> tuple[SourceHead, IctFile]:
    """The head in `data/ict_head.npz` without iris shells, lashes and the backs of the eyeballs. Raises InputError."""
    try:
        with np.load(data / "ict_head.npz") as archive:
            file = {key: archive[key] for key in archive.files}
    except (OSError, ValueError) as error:
        raise InputError(f"{data / 'ict_head.npz'}: cannot be read ({error})") from error
    faces, faces_uv = file["faces"].astype(np.int64), file["faces_uv"].astype(np.int64)
    uv = file["uv"].astype(np.float64)
    uv[:, 1] = 1 - uv[:, 1]
    material = file["material_names"][file["face_material"]]
    mean = file["mean"].astype(np.float64) * CENTIMETRE
    name = _chart_names(material, uv_islands(faces_uv, len(uv)), faces, mean)
    names = sorted(set(name[name != ""]))
    corner_chart = np.repeat([names.index(n) if n else -1 for n in name], 3)
    corners = np.stack([faces.reshape(-1), faces_uv.reshape(-1), corner_chart], -1)
    keys, wedges = np.unique(corners, axis=0, return_inverse=True)
    head = SourceHead(
        mean=mean,
        identity=file["id_basis"].astype(np.float32) * np.float32(CENTIMETRE),
        expression=_arkit(file["expr_basis"].astype(np.float32), [str(n) for n in file["expr_names"]]),
        wedges=wedges.reshape(-1, 3),
        vertex=keys[:, 0],
        chart=keys[:, 2],
        chart_names=tuple(names),
        tile=file["uv_tile"].astype(np.int64)[keys[:, 1]],
        tile_uv=uv[keys[:, 1]],
        source_face=np.arange(len(faces)),
        vertex_part=file["vertex_part"].astype(np.int64),
    )
    raw = IctFile(mean, faces, tuple(str(n) for n in file["part_names"]))
    return head.compact(name != ""), raw


def ict_shapes(data: Path) -> np.ndarray:
    """Identity shapes [100, V, 3] metres on all vertices of `data/ict_head.npz`."""
    with np.load(data / "ict_head.npz") as archive:
        return archive["id_basis"].astype(np.float32) * np.float32(CENTIMETRE)


def _arkit(basis: np.ndarray, names: list[str]) -> np.ndarray:
    """[52, V, 3] metres in ARKit order; split shapes summed, unknown ones (tongueOut) zero."""
    result = np.zeros((len(ARKIT_NAMES), *basis.shape[1:]), np.float32)
    for row, name in enumerate(ARKIT_NAMES):
        if name == "tongueOut":
            continue
        default = (name.replace("Left", "_L").replace("Right", "_R"),)
        parts = _MERGED.get(name, (name,) if name in names else default)
        result[row] = sum(basis[names.index(part)] for part in parts) * CENTIMETRE
    return result


def uv_islands(faces: np.ndarray, count: int) -> np.ndarray:
    """Connected component [F] of each triangle of a mesh with `count` vertices."""
    links = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]]])
    graph = sparse.coo_matrix((np.ones(len(links)), (links[:, 0], links[:, 1])), shape=(count, count))
    return connected_components(graph, directed=False)[1][faces[:, 0]]


def _chart_names(material: np.ndarray, island: np.ndarray, faces: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Chart [F] of each triangle, "" where it is dropped (iris shells, lashes, the backs of the eyeballs)."""
    name = np.full(len(faces), "", dtype="U24")
    for key in ("M_Face", "M_BackHead", "M_GumsTongue", "M_Teeth", "M_ScleraLeft", "M_ScleraRight"):
        for one in np.unique(island[material == key]):
            inside = (island == one) & (material == key)
            name[inside] = _island_name(key, mean[faces[inside]].reshape(-1, 3))
    return name


def _island_name(material: str, points: np.ndarray) -> str:
    low, high = points.min(0), points.max(0)
    side = "left" if low[0] + high[0] > 0 else "right"
    if material == "M_Face":
        return "face"
    if material == "M_Teeth":
        return "teeth"
    if material == "M_GumsTongue":  # the tongue's islands cross the midline, are narrow and end behind the teeth
        tongue = low[0] < -0.004 and 0.004 < high[0] < 0.021 and high[2] < 0.099
        if not tongue:
            return "gums"
        return "uvula" if high[2] < 0.03 else "tongue" if high[1] > -0.035 else "tongue_under"
    if material.startswith("M_Sclera"):
        return f"eyeball_{side}" if high[2] > 0.09 else ""
    if high[1] > 0.12:
        return "back"
    if low[1] < -0.15:
        return "bust"
    if low[0] < 0 < high[0]:
        return "mouth_socket"
    return f"eye_socket_{side}" if high[2] > 0.05 else f"ear_rim_{side}"


def face_parts(head: SourceHead) -> np.ndarray:
    """Our part index [F] of each triangle (the protocol's `part_names`)."""
    chart = np.array(head.chart_names)[head.face_chart]
    x, y, z = head.mean[head.faces].mean(1).T
    part = np.full(len(chart), PART_NAMES.index("face"))
    for name in ("teeth", "gums", "tongue", "mouth_socket", "eyeball_left", "eyeball_right"):
        part[chart == name] = PART_NAMES.index(name)
    part[chart == "tongue_under"] = PART_NAMES.index("tongue")
    part[chart == "uvula"] = PART_NAMES.index("mouth_socket")
    part[np.char.startswith(chart, "eye_socket")] = PART_NAMES.index("eye_sockets")
    skin = np.isin(chart, ("face", "back", "bust")) | np.char.startswith(chart, "ear_rim")
    part[skin & (chart == "back")] = PART_NAMES.index("scalp")
    jaw_line = np.minimum(-0.02 - 0.52 * z, -0.03)  # from the nape to under the chin
    part[skin & (y < jaw_line) & (z < 0.095)] = PART_NAMES.index("neck")
    collar = np.where(np.abs(x) > 0.09, -0.10, -0.125 + 0.30 * np.minimum(0.03 - z, 0.12))
    part[skin & (y < collar)] = PART_NAMES.index("bust")
    return part


def scalp_weight(points: np.ndarray) -> np.ndarray:
    """How surely hair grows at points [n, 3] of the mean head: 1 on the scalp, 0 on face, ears and neck.

    A hairline as elevation over azimuth about (0, 4, -0.5) cm, read off the mean head by eye.
    """
    arm = points - np.array([0.0, 0.04, -0.005])
    azimuth = np.degrees(np.abs(np.arctan2(arm[:, 0], arm[:, 2])))
    elevation = np.degrees(np.arctan2(arm[:, 1], np.hypot(arm[:, 0], arm[:, 2])))
    knots = (0, 25, 42, 55, 70, 85, 100, 112, 125, 150, 180)
    line = (38, 36, 30, 14, 2, 2, 4, -12, -30, -38, -40)
    ear = (np.abs(points[:, 0]) > 0.078) & (points[:, 1] < 0.05)
    return np.clip((elevation - np.interp(azimuth, knots, line)) / 8 + 0.5, 0, 1) * ~ear
