"""The head model from its sources."""

from pathlib import Path

import numpy as np
import torch

from flexavatar_cli.core.expression import INDEX
from flexavatar_cli.heads.files import save_head
from flexavatar_cli.heads.head_model import PART_NAMES, HeadModel
from flexavatar_cli.training.head_model import ict
from flexavatar_cli.training.head_model.atlas import BOXES, atlas_uv
from flexavatar_cli.training.head_model.bust import with_bust
from flexavatar_cli.training.head_model.closest import closest_points
from flexavatar_cli.training.head_model.decimate import decimate
from flexavatar_cli.training.head_model.identities import principal_components, sample_ict, visible_weight

VERTICES = 9400
SAMPLES = 800
# Besides the mean head, no triangle may flip in these.
POSES = (
    ("eyeBlinkLeft", "eyeBlinkRight"), ("jawOpen",), ("mouthSmileLeft", "mouthSmileRight"), ("mouthPucker",),
)  # fmt: skip


def detailed_head(data: Path) -> tuple[ict.SourceHead, ict.IctFile, np.ndarray]:
    """The full-resolution source with its bust, the ICT file it came from, and its atlas [W, 2]."""
    source, raw = ict.read_ict(data)
    source = with_bust(source)
    return source, raw, atlas_uv(source)


def build(data: Path, embedding: Path, output: Path) -> HeadModel:
    """Build and write the head model to folder `output`; returns it as loaded back."""
    generator = np.random.default_rng(0)
    detailed, raw, atlas = detailed_head(data)
    poses = [detailed.mean]
    poses += [detailed.mean + sum(detailed.expression[INDEX[name]] for name in names) for names in POSES]
    source, uv = decimate(detailed, atlas, VERTICES, np.stack(poses))
    heads = sample_ict(source, SAMPLES, generator)
    identity = principal_components(heads, visible_weight(source))
    head = assemble(source, identity.mean, identity.basis, source.expression, uv, embedding, raw)
    notes: dict[str, object] = {"licence": "Apache-2.0, see NOTICE", "origin": "built from ICT-FaceKit (MIT)"}
    return save_head(head, output, notes)


def assemble(
    source: ict.SourceHead,
    template: np.ndarray,  # [V, 3]
    identity: np.ndarray,  # [K, V, 3]
    expression: np.ndarray,  # [52, V, 3]
    uv: np.ndarray,  # [W, 2]
    embedding: Path,
    raw: ict.IctFile,
) -> HeadModel:
    """The protocol's arrays. Everything that depends on places is found on the ICT mean head, which `source` carries."""
    faces = source.faces
    landmark_face, landmark_bary, sigma, usable = landmarks(embedding, source, raw)
    eyes = np.stack([source.vertex_part == raw.part_names.index(f"eyeball_{side}") for side in "lr"])
    moved = [template[eye].mean(0) - source.mean[eye].mean(0) for eye in eyes]
    joints = {
        "neck": (0.0, -0.10, -0.005),
        "jaw": (0.0, 0.005, 0.02),
        "eye_left": tuple(ict.EYE_CENTRE + moved[0]),
        "eye_right": tuple(ict.EYE_CENTRE * [-1, 1, 1] + moved[1]),
    }
    skin = np.zeros(len(template), bool)
    skin[faces[source.in_chart("face", "back", "bust", "ear_rim_left", "ear_rim_right")]] = True
    return HeadModel(
        name="open-head",
        digest="",
        template=torch.from_numpy(template).float(),
        faces=torch.from_numpy(faces),
        uv=torch.from_numpy(uv).float(),
        faces_uv=torch.from_numpy(source.wedges),
        face_part=torch.from_numpy(ict.face_parts(source)),
        part_names=PART_NAMES,
        identity_basis=torch.from_numpy(identity).float(),
        expression_basis=torch.from_numpy(expression).float(),
        eye_vertices=torch.from_numpy(eyes),
        landmark_face=torch.from_numpy(landmark_face),
        landmark_bary=torch.from_numpy(landmark_bary).float(),
        landmark_sigma=torch.from_numpy(sigma).float(),
        landmark_used=torch.from_numpy(usable),
        joints={name: torch.tensor(value, dtype=torch.float32) for name, value in joints.items()},
        scalp_weight=torch.from_numpy(ict.scalp_weight(source.mean) * skin).float(),
    )


def landmarks(
    embedding: Path, source: ict.SourceHead, raw: ict.IctFile
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Face [478], weights [478, 3], sigma [478], used [478] of MediaPipe's points.

    They are the closest points, on face or eyeball, to those of the ICT embedding.
    """
    with np.load(embedding) as table:
        rows, bary = table["face"].astype(np.int64), table["bary"].astype(np.float64)
        sigma, usable = table["sigma_iod"], table["use"]
    points = np.einsum("nk,nkc->nc", bary, raw.mean[raw.faces[rows]])
    face, weights = np.zeros(len(points), np.int64), np.zeros((len(points), 3))
    iris = np.arange(len(points)) >= 468
    for chosen, charts in ((~iris, ("face",)), (iris, ("eyeball_left", "eyeball_right"))):
        allowed = source.in_chart(*charts)
        face[chosen], weights[chosen], _ = closest_points(source.mean[source.faces], points[chosen], allowed)
    return face, weights, sigma, usable


def ict_texel_source(data: Path, head: HeadModel, resolution: int) -> dict[str, np.ndarray]:
    """Where each of the N valid texels of `head` at `resolution` lies on the ICT head.

    `tile` [N] UDIM tile, `uv` [N, 2] inside it with v DOWN (image row = v * H), `face` [N] row of `faces` in
    `ict_head.npz` and `bary` [N, 3] there. Tile 0 of a skin texel is the photographic face texture; eyeballs are
    tile 0 too, with their own texture: tell them apart by the grid's part. -1 where the ICT head has no such surface.
    """
    detailed, _, atlas = detailed_head(data)
    grid = head.texels(resolution)
    row, column = np.divmod(grid.index.numpy(), resolution)
    point = (np.stack([column, row], -1) + 0.5) / resolution
    found, bary = np.zeros(len(point), np.int64), np.zeros((len(point), 3))
    flat = np.pad(atlas[detailed.wedges], ((0, 0), (0, 0), (0, 1)))
    for name in detailed.chart_names:
        u0, v0, u1, v1 = BOXES[name]
        inside = np.flatnonzero((point >= (u0, v0)).all(-1) & (point < (u1, v1)).all(-1))
        if len(inside):
            query = np.pad(point[inside], ((0, 0), (0, 1)))
            found[inside], bary[inside], _ = closest_points(flat, query, detailed.in_chart(name))
    wedges = detailed.wedges[found]
    face = detailed.source_face[found]
    tile = np.where(face >= 0, detailed.tile[wedges[:, 0]], -1)
    uv = np.einsum("nk,nkc->nc", bary, detailed.tile_uv[wedges])
    return {"tile": tile, "uv": uv, "face": face, "bary": bary}
