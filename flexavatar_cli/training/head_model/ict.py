"""The ICT-FaceKit head (MIT) as read from `ict_head.npz`, in our units, axes and expression order."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.sparse as sparse
from scipy.sparse.csgraph import connected_components

from flexavatar_cli.core.errors import InputError
from flexavatar_cli.core.expression import ARKIT_NAMES
from flexavatar_cli.heads.head_model import PART_NAMES
from flexavatar_cli.training.head_model.atlas import Chart, make_chart

CENTIMETRE = 0.01
EYE_CENTRE = np.array([3.1041887, 3.60395, 7.8872967]) * CENTIMETRE  # left eye; the right one is mirrored in x
_MERGED = {"browInnerUp": ("browInnerUp_L", "browInnerUp_R"), "cheekPuff": ("cheekPuff_L", "cheekPuff_R")}


@dataclass(frozen=True)
class IctHead:
    """The kept triangles (skin, sockets, gums, tongue, teeth, scleras) on the ICT head's own vertices, in metres."""

    mean: np.ndarray  # [V, 3] float64
    identity: np.ndarray  # [100, V, 3] float32, coefficients N(0, 1)
    expression: np.ndarray  # [52, V, 3] float32, ARKit order, tongueOut zero
    faces: np.ndarray  # [F, 3]
    faces_uv: np.ndarray  # [F, 3]
    uv: np.ndarray  # [W, 2] inside the tile, v DOWN
    chart: np.ndarray  # [F] index into charts
    charts: tuple[Chart, ...]
    source_face: np.ndarray  # [F] row of `faces` in the file
    all_faces: np.ndarray  # [50996, 3] every triangle of the file
    vertex_part: np.ndarray  # [V] file's part index
    part_names: tuple[str, ...]  # file's
    landmarks68: np.ndarray  # [68] vertices

    @property
    def tile(self) -> np.ndarray:  # [F]
        """UDIM tile of each triangle."""
        return np.array([chart.tile for chart in self.charts])[self.chart]

    def atlas_uv(self) -> np.ndarray:
        """Atlas UV [F, 3, 2] of the triangle corners."""
        corners = self.uv[self.faces_uv]
        result = np.empty_like(corners)
        for index, chart in enumerate(self.charts):
            result[self.chart == index] = chart.to_atlas(corners[self.chart == index])
        return result


def read_ict(data: Path) -> IctHead:
    """The head in `data/ict_head.npz`. Raises InputError."""
    try:
        with np.load(data / "ict_head.npz") as archive:
            file = {key: archive[key] for key in archive.files}
    except (OSError, ValueError) as error:
        raise InputError(f"{data / 'ict_head.npz'}: cannot be read ({error})") from error
    faces, faces_uv = file["faces"].astype(np.int64), file["faces_uv"].astype(np.int64)
    uv = file["uv"].astype(np.float64)
    uv[:, 1] = 1 - uv[:, 1]
    material = file["material_names"][file["face_material"]]
    island = _islands(faces_uv, len(uv))
    mean = file["mean"].astype(np.float64) * CENTIMETRE
    name = _chart_names(material, island, faces, mean)
    keep = name != ""
    names = sorted(set(name[keep]))
    charts = tuple(
        make_chart(chart, int(file["uv_tile"][faces_uv[name == chart][0, 0]]), uv[np.unique(faces_uv[name == chart])])
        for chart in names
    )
    return IctHead(
        mean=mean,
        identity=file["id_basis"].astype(np.float32) * np.float32(CENTIMETRE),
        expression=_arkit(file["expr_basis"].astype(np.float32), [str(n) for n in file["expr_names"]]),
        faces=faces[keep],
        faces_uv=faces_uv[keep],
        uv=uv,
        chart=np.array([names.index(n) for n in name[keep]]),
        charts=charts,
        source_face=np.flatnonzero(keep),
        all_faces=faces,
        vertex_part=file["vertex_part"].astype(np.int64),
        part_names=tuple(str(n) for n in file["part_names"]),
        landmarks68=file["landmarks68"].astype(np.int64),
    )


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


def _islands(faces_uv: np.ndarray, count: int) -> np.ndarray:
    """UV island [F] of each triangle."""
    links = np.concatenate([faces_uv[:, [0, 1]], faces_uv[:, [1, 2]]])
    graph = sparse.coo_matrix((np.ones(len(links)), (links[:, 0], links[:, 1])), shape=(count, count))
    return connected_components(graph, directed=False)[1][faces_uv[:, 0]]


def _chart_names(material: np.ndarray, island: np.ndarray, faces: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Chart [F] of each triangle, "" where it is dropped (iris shells, lashes, the backs of the eyeballs)."""
    fixed = {"M_Face": "face", "M_GumsTongue": "gums_tongue", "M_Teeth": "teeth"}
    name = np.full(len(faces), "", dtype="U24")
    for key, chart in fixed.items():
        name[material == key] = chart
    for key in ("M_BackHead", "M_ScleraLeft", "M_ScleraRight"):
        for one in np.unique(island[material == key]):
            inside = island == one
            name[inside] = _island_name(key, mean[faces[inside]].reshape(-1, 3))
    return name


def _island_name(material: str, points: np.ndarray) -> str:
    low, high = points.min(0), points.max(0)
    side = "left" if low[0] + high[0] > 0 else "right"
    if material.startswith("M_Sclera"):
        return f"eyeball_{side}" if high[2] > 0.09 else ""
    if high[1] > 0.12:
        return "back"
    if low[1] < -0.15:
        return "bust"
    if low[0] < 0 < high[0]:
        return "mouth_socket"
    return f"eye_socket_{side}" if high[2] > 0.05 else f"ear_rim_{side}"


def face_parts(head: IctHead) -> np.ndarray:
    """Our part index [F] of each triangle (the protocol's `part_names`)."""
    chart = np.array([c.name for c in head.charts])[head.chart]
    centre = head.mean[head.faces].mean(1)
    part = np.full(len(chart), PART_NAMES.index("face"))
    for name in ("teeth", "eyeball_left", "eyeball_right"):
        part[chart == name] = PART_NAMES.index(name)
    part[np.char.startswith(chart, "eye_socket")] = PART_NAMES.index("eye_sockets")
    part[chart == "mouth_socket"] = PART_NAMES.index("mouth_socket")
    part[chart == "gums_tongue"] = PART_NAMES.index("gums")
    part[tongue_faces(head)] = PART_NAMES.index("tongue")
    skin = np.isin(chart, ("face", "back", "bust")) | np.char.startswith(chart, "ear_rim")
    y, z = centre[:, 1], centre[:, 2]
    jaw_line = -0.02 - 0.52 * (z - 0.0)  # from the nape (y -2, z 0) to under the chin
    part[skin & (chart == "back")] = PART_NAMES.index("scalp")
    part[skin & (y < np.minimum(jaw_line, -0.03)) & (z < 0.095)] = PART_NAMES.index("neck")
    part[skin & (y < -0.125 + 0.30 * np.minimum(-z + 0.03, 0.12))] = PART_NAMES.index("bust")
    return part


def tongue_faces(head: IctHead) -> np.ndarray:
    """Triangles [F] bool of the tongue: the two islands of the gums' tile that reach the midline and do not carry teeth."""
    chart = np.array([c.name for c in head.charts])[head.chart]
    island = _islands(head.faces_uv, len(head.uv))
    result = np.zeros(len(chart), bool)
    for one in np.unique(island[chart == "gums_tongue"]):
        inside = island == one
        points = head.mean[head.faces[inside]].reshape(-1, 3)
        low, high = points.min(0), points.max(0)
        crosses = low[0] < -0.004 and high[0] > 0.004
        if crosses and high[0] < 0.021 and high[2] < 0.099:
            result |= inside
    return result


def scalp_weight(points: np.ndarray) -> np.ndarray:
    """How surely hair grows at points [n, 3] of the mean head: 1 on the scalp, 0 on face, ears and neck.

    A hairline as elevation over azimuth about (0, 4, -0.5) cm, read off the mean head by eye.
    """
    arm = points - np.array([0.0, 0.04, -0.005])
    azimuth = np.degrees(np.abs(np.arctan2(arm[:, 0], arm[:, 2])))
    elevation = np.degrees(np.arctan2(arm[:, 1], np.hypot(arm[:, 0], arm[:, 2])))
    knots = (0, 25, 42, 55, 70, 85, 100, 115, 130, 150, 180)
    line = (38, 36, 30, 14, 4, 8, 12, -6, -24, -36, -40)
    return np.clip((elevation - np.interp(azimuth, knots, line)) / 8 + 0.5, 0, 1)
