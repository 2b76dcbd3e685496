"""The head model from its sources."""

import logging
from pathlib import Path

import numpy as np
import torch

from flexavatar_cli.core.expression import INDEX
from flexavatar_cli.heads.files import save_head
from flexavatar_cli.heads.head_model import PART_NAMES, HeadModel
from flexavatar_cli.heads.surface import surface
from flexavatar_cli.training.head_model import ict
from flexavatar_cli.training.head_model.atlas import BOXES, atlas_uv
from flexavatar_cli.training.head_model.bust import with_bust
from flexavatar_cli.training.head_model.closest import closest_points
from flexavatar_cli.training.head_model.decimate import decimate
from flexavatar_cli.training.head_model.ear_light import write_ear_light
from flexavatar_cli.training.head_model.expressions import lips_together, tongue_out
from flexavatar_cli.training.head_model.eyes import eyes_behind_lids, set_back
from flexavatar_cli.training.head_model.identities import (
    IdentityModel,
    principal_components,
    sample_ict,
    visible_weight,
)
from flexavatar_cli.training.head_model.makehuman import read_makehuman
from flexavatar_cli.training.head_model.register import Registration, rigid, still_vertices, vertices_of

log = logging.getLogger(__name__)

VERTICES = 9400
ICT_SAMPLES, MAKEHUMAN_SAMPLES, HELD_OUT = 700, 350, 40
LICENCE = "Apache-2.0; sources and their attributions in NOTICE"
ORIGIN = "trained on random heads of ICT-FaceKit (MIT) and MakeHuman (CC0); see CARD.md"
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
    log.info("%d vertices, %d triangles", len(source.mean), len(source.wedges))
    face, bary, _, used = points = landmarks(embedding, source, raw)
    registration = Registration(source, read_makehuman(data), (face, bary, used))
    identity, held_out = identities(source, registration, generator)
    expression = source.expression.copy()
    expression[INDEX["tongueOut"]] = tongue_out(registration)
    template = identity.mean + lips_together(source) + set_back(source)
    basis = eyes_behind_lids(source, expression, identity.basis)
    head = assemble(source, template, basis, expression, uv, points, raw)
    measured = quality(detailed, source, registration, identity, held_out, generator)
    log.info("%s", measured)
    write_ear_light(head, output)
    return save_head(head, output, {"licence": LICENCE, "origin": ORIGIN, "measured": measured})


def identities(
    source: ict.SourceHead, registration: Registration, generator: np.random.Generator
) -> tuple[IdentityModel, dict[str, np.ndarray]]:
    """The identity model of both sources, and held-out heads [n, V, 3] of each.

    MakeHuman's average differs from the ICT mean partly by style; half of that offset is taken out of its heads.
    """
    human = registration.human
    people = [registration.person(human.sample(generator)) for _ in range(MAKEHUMAN_SAMPLES + HELD_OUT)]
    makehuman = np.stack(people)
    makehuman -= 0.5 * (makehuman.mean(0) - source.mean)
    training = np.concatenate([in_place(source, sample_ict(source, ICT_SAMPLES, generator)), makehuman[HELD_OUT:]])
    model = principal_components(training, visible_weight(source))
    scans = in_place(source, sample_ict(source, HELD_OUT, generator))
    return model, {"ict": scans, "makehuman": makehuman[:HELD_OUT]}


def in_place(source: ict.SourceHead, heads: np.ndarray) -> np.ndarray:
    """Heads [n, V, 3] moved rigidly onto the mean head's upper face and skull."""
    still = still_vertices(source)
    result = np.empty_like(heads)
    for index, head in enumerate(heads):
        rotation, shift = rigid(head[still], source.mean[still])
        result[index] = head @ rotation.T + shift
    return result


def quality(
    detailed: ict.SourceHead,
    source: ict.SourceHead,
    registration: Registration,
    identity: IdentityModel,
    held_out: dict[str, np.ndarray],
    generator: np.random.Generator,
) -> dict[str, object]:
    """Registration errors and residuals of held-out heads, mean over visible skin, in millimetres."""
    human = registration.human
    skin = np.unique(detailed.faces[detailed.in_chart("face", "back")])
    coefficients = generator.standard_normal((5, len(detailed.identity)))
    scans = detailed.mean + np.tensordot(coefficients, detailed.identity, 1)
    kept = source.mean + np.tensordot(coefficients, source.identity, 1)
    own = source.in_chart("face", "back")
    topology = [closest_points(k[source.faces], s[skin], own)[2].mean() for k, s in zip(kept, scans, strict=True)]
    registered = [registration.error(human.sample(generator)) for _ in range(10)]
    visible = identity.weight * vertices_of(source, ("face", "back"))
    residual = {}
    for name, heads in held_out.items():
        rebuilt = identity.rebuild(identity.coefficients(heads))
        distance = np.linalg.norm(rebuilt - heads, axis=-1)
        from_mean = np.linalg.norm(heads - identity.mean, axis=-1)
        residual[name] = [
            round(float((d * visible).sum(1).mean() / visible.sum() * 1000), 2) for d in (distance, from_mean)
        ]
    return {
        "unit": "mm, mean over face and scalp",
        "ict_surface_to_ours": round(float(np.mean(topology)) * 1000, 3),
        "makehuman_skin_to_ours": round(float(np.mean(registered)) * 1000, 3),
        "held_out_residual_and_distance_from_mean": residual,
        "variance_explained": round(float(identity.explained[-1]), 4),
    }


def assemble(
    source: ict.SourceHead,
    template: np.ndarray,  # [V, 3]
    identity: np.ndarray,  # [K, V, 3]
    expression: np.ndarray,  # [52, V, 3]
    uv: np.ndarray,  # [W, 2]
    points: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],  # as landmarks() gives them
    raw: ict.IctFile,
) -> HeadModel:
    """The protocol's arrays. What depends on places is found on the ICT mean head, which `source` carries."""
    faces = source.faces
    landmark_face, landmark_bary, sigma, usable = points
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


def ict_identities(data: Path, head: HeadModel, coefficients: np.ndarray, resolution: int = 64) -> np.ndarray:
    """Our identity coefficients [n, K] of ICT identities [n, 100]: ridge least squares on face and scalp texels.

    The ICT heads are first moved rigidly onto our template, which is where our identities live.
    """
    _, raw = ict.read_ict(data)
    texels = ict_texel_source(data, head, resolution)
    grid = head.texels(resolution)
    visible = np.isin(grid.part.numpy(), [head.part_names.index("face"), head.part_names.index("scalp")])
    visible &= texels["face"] >= 0
    corners = raw.faces[texels["face"][visible]]
    shapes = ict.ict_shapes(data)
    bary = texels["bary"][visible]
    points = np.einsum("nk,nkc->nc", bary, raw.mean[corners])
    moved = np.einsum("nk,inkc->inc", bary, shapes[:, corners])
    own = surface(grid, head.template).numpy()[visible]
    basis = surface(grid, head.identity_basis).numpy()[:, visible].astype(np.float64)
    columns = basis.reshape(len(basis), -1).T * 1000  # millimetres
    gram = columns.T @ columns / len(own) + 0.02 * np.eye(len(basis))
    result = np.zeros((len(coefficients), len(basis)))
    for index, weights in enumerate(coefficients):
        wanted = points + np.tensordot(weights, moved, 1)
        rotation, shift = rigid(wanted, own)
        value = ((wanted @ rotation.T + shift) - own).reshape(-1) * 1000
        result[index] = np.linalg.solve(gram, columns.T @ value / len(own))
    return result
