"""An avatar as one HTML file that any browser animates: the rig, a low-rank playback basis, and a WebGL 2 splat viewer.

`head.js` does in the browser what `render --fast` does here. The file carries, gzipped, a safetensors archive of the
tables that it needs (large ones as whole numbers with a step per row) and every constant of the rig by name.
"""

import base64
import gzip
import html
import json
from pathlib import Path
from string import Template

import numpy as np
import torch
from safetensors.numpy import save

from flexavatar_cli.core.errors import UsageError
from flexavatar_cli.core.expression import ARKIT_NAMES, EXPRESSION_NAMES, INDEX, both
from flexavatar_cli.core.files import replacing
from flexavatar_cli.heads import HeadModel
from flexavatar_cli.heads.surface import NORMAL_STEPS, tangent_table
from flexavatar_cli.stages import motion
from flexavatar_cli.stages.animation import Puppet
from flexavatar_cli.stages.eyelids import Lid, with_lids_closed
from flexavatar_cli.stages.playback import CHANNELS, Playback
from flexavatar_cli.stages.posing import Pose, pose_of
from flexavatar_cli.stages.rig import LONGEST_STEP, SIZE_SHARE, SMALLEST_SIGMA, STRETCHED_STEP, THICKNESS, rig_anchor

HEADER = "flexavatar-viewer"  # the metadata key
RANK = 16  # directions kept of the basis: 0.32/255 off the network where all 48 are 0.30 off, in a third of the bytes
GLANCE = 0.4  # radians that the gaze slider turns the eyes to either side
LID_STEPS = 16  # from open to shut
FOLDER = Path(__file__).parent
SOURCES = ("viewer.html", "viewer.js", "head.js", "worker.js", "splat.vert.glsl", "splat.frag.glsl")

Arrays = dict[str, np.ndarray]


def save_viewer(figure: Puppet, basis: Playback, path: Path, title: str) -> Path:
    """Write the page of an avatar, beside and renamed. Raises UsageError if its expressions are not ARKit's."""
    with replacing(path) as temporary:
        temporary.write_text(page(archive(figure, basis), title), encoding="utf-8")
    return Path(path)


def page(content: bytes, title: str) -> str:
    """The HTML around an archive; nothing in it is fetched from elsewhere."""
    texts = {name: (FOLDER / name).read_text(encoding="utf-8") for name in SOURCES}
    return Template(texts["viewer.html"]).substitute(
        title=html.escape(title),
        avatar=base64.b64encode(gzip.compress(content, mtime=0)).decode(),
        worker=texts["head.js"] + texts["worker.js"],
        vertex=texts["splat.vert.glsl"],
        fragment=texts["splat.frag.glsl"],
        viewer=texts["viewer.js"],
    )


def archive(figure: Puppet, basis: Playback) -> bytes:
    """Header and arrays that `head.js` opens, as safetensors. Raises UsageError, see `save_viewer`."""
    if figure.anchor is None or figure.expression_names != EXPRESSION_NAMES:
        raise UsageError("the web viewer needs an avatar whose expressions are ARKit's; export a ply or splat of it")
    basis = basis.truncated(RANK)
    head, identity = figure.instruments.head, figure.identity.cpu()
    pose = pose_of(rig_anchor(head, figure.instruments.model.resolution), identity)
    frames = motion.demo_motion()
    header = {
        "expression_names": EXPRESSION_NAMES,
        "shape_count": len(ARKIT_NAMES),
        "gaze": [[INDEX[f"gaze{side}{angle}"] for angle in ("Yaw", "Pitch")] for side in ("Left", "Right")],
        "eye_centres": head.eye_centres(identity).tolist(),
        "channels": CHANNELS,
        "rank": basis.rank,
        "length": basis.length,
        "normal_steps": NORMAL_STEPS,
        "longest_step": LONGEST_STEP,
        "stretched_step": STRETCHED_STEP,
        "smallest_sigma": SMALLEST_SIGMA,
        "size_share": SIZE_SHARE,
        "thickness": THICKNESS,
        "lids": [{"columns": lid.columns.tolist(), "lowering": lid.lowering.tolist()} for lid in pose.anchor.lids],
        "lid_steps": LID_STEPS,
        "motion_fps": frames.fps,
        "sliders": sliders(),
    }
    arrays = {"motion": frames.expression_code} | head_tables(head, pose) | basis_tables(basis)
    for side, lid in enumerate(pose.anchor.lids):
        arrays |= lid_tables(f"lid.{side}", lid, basis)
    return save(
        {name: np.ascontiguousarray(array) for name, array in arrays.items()},
        metadata={HEADER: json.dumps(header, allow_nan=False)},
    )


def head_tables(head: HeadModel, pose: Pose) -> Arrays:
    """Neutral vertices, blendshapes and the tables of `posing`, as small as they may be."""
    grid = head.texels(pose.anchor.resolution)
    tangent = tangent_table(head).numpy()  # only its direction counts
    tangent = tangent / np.maximum(np.linalg.norm(tangent, axis=1, keepdims=True), 1e-20)
    arrays = {
        "faces": small_integers(pose.faces),
        "face": small_integers(grid.face.numpy()),
        "neighbours": small_integers(pose.neighbours),
        "link.starts": pose.links[0],
        "link.columns": small_integers(pose.links[1]),
        "link.weights": pose.links[2],
        **quantised("neutral", head.vertices(pose.identity, None).numpy()),
        **quantised("shapes", head.expression_basis.numpy(), rows=len(ARKIT_NAMES)),
        **quantised("bary", pose.bary[:, :2]),  # the third is what is left to 1
        **quantised("tangent", tangent),
        **quantised("reach", pose.reach),
    }
    for eye, mask in enumerate(head.eye_vertices.numpy()):
        arrays[f"eye.{eye}"] = small_integers(np.flatnonzero(mask))
    return arrays


def basis_tables(basis: Playback) -> Arrays:
    """The playback: means and layers in 16 bits, directions in 8, the regression as it is."""
    arrays = {"support": basis.support.numpy(), "weights": basis.weights.numpy()}
    for name, part in basis.fields.items():
        arrays |= quantised(f"mean.{name}", part.mean.numpy())
        arrays |= quantised(f"basis.{name}", part.basis.numpy(), rows=basis.rank, kind=np.int8)
        arrays[f"moving.{name}"] = small_integers(part.moving.numpy())
    for number, (weight, bias) in enumerate(basis.layers):
        arrays |= quantised(f"layer.{number}.weight", weight.numpy(), rows=len(weight))
        arrays[f"layer.{number}.bias"] = bias.numpy()
    return arrays


def lid_tables(name: str, lid: Lid, basis: Playback) -> Arrays:
    """What `with_lids_closed` adds to the attributes of a lid's texels on an otherwise resting face, [levels, M, C].

    Levels are LID_STEPS + 1 from open to shut. On other faces the same is added, where Python would look at the skin
    around the lid again.
    """
    code = torch.zeros(LID_STEPS + 1, len(EXPRESSION_NAMES))
    code[:, lid.columns[0]] = torch.linspace(0, 1, LID_STEPS + 1) / lid.lowering[0]
    opened = basis.attributes(code)
    closed = with_lids_closed((lid,), opened, code)
    arrays = {f"{name}.texels": small_integers(lid.texels.numpy())}
    for attribute in CHANNELS:
        change = (getattr(closed, attribute) - getattr(opened, attribute))[:, lid.texels].numpy()
        if change.any():
            arrays |= quantised(f"{name}.{attribute}", change, kind=np.int8)
    return arrays


def quantised(name: str, values: np.ndarray, rows: int = 1, kind: type = np.int16) -> Arrays:
    """`values` as whole numbers, and `name.step` [rows] float32: what one of them is worth in each row."""
    table = values.reshape(rows, -1).astype(np.float64)
    largest = np.abs(table).max(1, initial=0)
    steps = (np.maximum(largest, 1e-20) / np.iinfo(kind).max).astype(np.float32)
    return {name: np.round(table / steps[:, None]).astype(kind).reshape(values.shape), f"{name}.step": steps}


def small_integers(table: np.ndarray) -> np.ndarray:
    """Indices as uint16 where they fit, else int32."""
    return table.astype(np.uint16 if table.max(initial=0) < 1 << 16 else np.int32)


def sliders() -> dict[str, dict[str, dict[str, float]]]:
    """What each slider adds to the expression at its right end (`plus`) and, where it has one, its left (`minus`)."""

    def glance(yaw: float) -> dict[str, float]:
        code = np.zeros((1, len(EXPRESSION_NAMES)), np.float32)
        code[0, [INDEX["gazeLeftYaw"], INDEX["gazeRightYaw"]]] = yaw
        code = motion.with_lids(code)
        return {name: float(code[0, column]) for name, column in INDEX.items() if code[0, column]}

    return {
        "jaw": {"plus": {"jawOpen": 1.0}},
        "smile": {"plus": motion.SMILE},
        "brows": {
            "plus": {"browInnerUp": 0.8, **both(browOuterUp=0.8, eyeWide=0.4)},
            "minus": both(browDown=1.0),
        },
        "blink": {"plus": both(eyeBlink=1.0)},
        "gaze": {"plus": glance(GLANCE), "minus": glance(-GLANCE)},
    }
