"""The head model from its sources."""

from pathlib import Path

import numpy as np
import torch

from flexavatar_cli.heads.files import save_head
from flexavatar_cli.heads.head_model import PART_NAMES, HeadModel
from flexavatar_cli.training.head_model import ict
from flexavatar_cli.training.head_model.closest import closest_points

IDENTITIES = 60


def build(data: Path, embedding: Path, output: Path) -> HeadModel:
    """Build and write the head model to folder `output`; returns it as loaded back."""
    source = ict.read_ict(data)
    used, inverse = np.unique(source.faces, return_inverse=True)
    faces = inverse.reshape(-1, 3)
    corner_uv = source.atlas_uv().reshape(-1, 2)
    keys, faces_uv = np.unique(
        np.stack([source.faces_uv.reshape(-1), np.repeat(source.chart, 3)], -1), axis=0, return_inverse=True
    )
    uv = np.zeros((len(keys), 2))
    uv[faces_uv.reshape(-1)] = corner_uv
    template = source.mean[used]
    landmark_face, landmark_bary, sigma, usable = landmarks(embedding, source, template, faces)
    eyes = np.stack([source.vertex_part[used] == source.part_names.index(f"eyeball_{side}") for side in "lr"])
    joints = {
        "neck": (0.0, -0.10, -0.005),
        "jaw": (0.0, 0.005, 0.02),
        "eye_left": tuple(ict.EYE_CENTRE),
        "eye_right": tuple(ict.EYE_CENTRE * [-1, 1, 1]),
    }
    on_head = np.isin(source.vertex_part[used], (0, 1))
    head = HeadModel(
        name="open-head",
        digest="",
        template=torch.from_numpy(template).float(),
        faces=torch.from_numpy(faces),
        uv=torch.from_numpy(uv).float(),
        faces_uv=torch.from_numpy(faces_uv.reshape(-1, 3)),
        face_part=torch.from_numpy(ict.face_parts(source)),
        part_names=PART_NAMES,
        identity_basis=torch.from_numpy(source.identity[:IDENTITIES, used]),
        expression_basis=torch.from_numpy(source.expression[:, used]),
        eye_vertices=torch.from_numpy(eyes),
        landmark_face=torch.from_numpy(landmark_face),
        landmark_bary=torch.from_numpy(landmark_bary).float(),
        landmark_sigma=torch.from_numpy(sigma).float(),
        landmark_used=torch.from_numpy(usable),
        joints={name: torch.tensor(value, dtype=torch.float32) for name, value in joints.items()},
        scalp_weight=torch.from_numpy(ict.scalp_weight(template) * on_head).float(),
    )
    notes: dict[str, object] = {"licence": "Apache-2.0, see NOTICE", "origin": "built from ICT-FaceKit (MIT)"}
    return save_head(head, output, notes)


def landmarks(
    embedding: Path,
    source: ict.IctHead,
    template: np.ndarray,  # [V, 3]
    faces: np.ndarray,  # [F, 3]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Face [478], weights [478, 3], sigma [478], used [478] of MediaPipe's points: closest points to the ICT embedding's."""
    with np.load(embedding) as table:
        rows, bary = table["face"].astype(np.int64), table["bary"].astype(np.float64)
        sigma, usable = table["sigma_iod"], table["use"]
    points = np.einsum("nk,nkc->nc", bary, source.mean[source.all_faces[rows]])
    face, weights, _ = closest_points(template[faces], points)
    return face, weights, sigma, usable


def ict_texel_source(data: Path, head: HeadModel, resolution: int) -> dict[str, np.ndarray]:
    """Where each of the N valid texels of `head` at `resolution` lies on the ICT head.

    `tile` [N] UDIM tile, `uv` [N, 2] inside it with v DOWN (image row = v * H), `face` [N] row of `faces` in
    `ict_head.npz` and `bary` [N, 3] there. Tile 0 of a skin texel is the photographic face texture; eyeballs are
    tile 0 too, with their own texture: tell them apart by the grid's part. -1 where the ICT head has no such surface.
    """
    source = ict.read_ict(data)
    grid = head.texels(resolution)
    row, column = np.divmod(grid.index.numpy(), resolution)
    point = (np.stack([column, row], -1) + 0.5) / resolution
    tile, face = np.full(len(point), -1), np.full(len(point), -1)
    uv, bary = np.zeros((len(point), 2)), np.zeros((len(point), 3))
    corners = source.atlas_uv()
    for index, chart in enumerate(source.charts):
        u0, v0, u1, v1 = chart.box
        inside = (point >= (u0, v0)).all(-1) & (point < (u1, v1)).all(-1)
        own = np.flatnonzero(source.chart == index)
        flat = np.pad(corners[own], ((0, 0), (0, 0), (0, 1)))
        found, bary[inside], _ = closest_points(flat, np.pad(point[inside], ((0, 0), (0, 1))))
        face[inside] = source.source_face[own[found]]
        tile[inside] = chart.tile
        uv[inside] = np.einsum("nk,nkc->nc", bary[inside], source.uv[source.faces_uv[own[found]]])
    return {"tile": tile, "uv": uv, "face": face, "bary": bary}
