"""Everything stage 1 needs, prepared once into a folder of plain arrays (a few minutes), memory-mapped in training."""

import json
import logging
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, fields, replace
from itertools import islice
from pathlib import Path

import numpy as np

from flexavatar_cli.core.errors import InputError
from flexavatar_cli.core.files import digest_bytes, replacing
from flexavatar_cli.heads import HeadModel, load_head
from flexavatar_cli.training.rows import Column, read_rows, write_rows
from flexavatar_cli.training.split import held_out_ids
from flexavatar_cli.training.synthetic.hair import HairStyles, bake_styles, strand_grain, texel_points
from flexavatar_cli.training.synthetic.materials import Materials, load_materials
from flexavatar_cli.training.synthetic.views import RenderMesh, SyntheticView, render_mesh, synthetic_view

log = logging.getLogger(__name__)

RESOLUTION = 256
SUBDIVISIONS = 1
HELD_OUT_STYLES = ("short02", "elvs_wavy_bob", "elvs_hazel_hair", "long01", "elvs_maxwell_hair")
HELD_OUT_EVERY = 8  # of the skins


@dataclass(frozen=True)
class Pack:
    """Columns of one prepared folder, one entry per row. `held_*` belong to evaluation only."""

    atlas: str  # digest of the texels that the arrays are indexed by
    digest: str
    materials: Materials
    views: dict[str, Column]
    held_views: dict[str, Column]
    portraits: dict[str, Column]  # empty when none were prepared
    recordings: dict[str, Column] = field(default_factory=dict)  # calibrated ones, likewise

    @property
    def skins(self) -> np.ndarray:
        """Rows of the skins that training may use."""
        rows = np.arange(len(self.materials.names))
        return rows[(rows % HELD_OUT_EVERY != 0) & ~self.materials.held_out]

    @property
    def held_skins(self) -> np.ndarray:
        """Rows of the skins kept for evaluation."""
        rows = np.arange(len(self.materials.names))
        return rows[rows % HELD_OUT_EVERY == 0]


def prepare_pack(
    data: Path,
    output: Path,
    views: int,
    held_views: int,
    seed: int,
    shard: int = 0,  # rows of a tar shard; 0 = plain arrays
    workers: int = 2,
    on_step: Callable[[int, int], None] | None = None,
) -> Path:
    """Bake hair, resample skins and make `views` + `held_views` pictures into folder `output`, by seed."""
    head = load_head()
    styles = bake_styles(data, head, RESOLUTION)
    with np.load(data / "portraits_ann.npz") as annotations:
        materials = load_materials(data, head, RESOLUTION, held_out_ids(annotations))
    grain = strand_grain(styles, head, RESOLUTION)[:, None]
    materials = replace(materials, mean_color=(materials.mean_color * (1 + grain)).astype(np.float32))
    held = np.array([styles.names.index(name) for name in HELD_OUT_STYLES])
    train = np.setdiff1d(np.arange(1, len(styles.names)), held)
    jobs = [(train, seed, row) for row in range(views)] + [(held, seed + 1, row) for row in range(held_views)]

    def counted(made: Iterable[SyntheticView]) -> Iterator[SyntheticView]:
        for done, view in enumerate(made, 1):
            yield view
            if on_step:
                on_step(done, len(jobs))

    with ProcessPoolExecutor(workers, initializer=_start, initargs=(styles,)) as pool:
        made = counted(pool.map(_make, jobs, chunksize=4))
        return write_pack(output, head, materials, islice(made, views), made, seed, shard)


def write_pack(
    output: Path,
    head: HeadModel,
    materials: Materials,
    views: Iterable[SyntheticView],  # taken before the held ones
    held_views: Iterable[SyntheticView],
    seed: int,
    shard: int = 0,
) -> Path:
    """Store everything in folder `output`, beside and renamed."""
    with replacing(output) as folder:
        folder.mkdir()
        for name, value in vars(materials).items():
            np.save(folder / f"materials.{name}.npy", np.asarray(value))
        facts: dict[str, object] = {"atlas": atlas_digest(head), "head": head.digest, "seed": seed}
        facts["views"] = write_rows(folder, "views", map(vars, views), shard)
        facts["held_views"] = write_rows(folder, "held_views", map(vars, held_views))
        facts["digest"] = digest_bytes(json.dumps(facts, sort_keys=True).encode())
        (folder / "pack.json").write_text(json.dumps(facts, indent=1))
    return output


def read_pack(folder: Path, head: HeadModel) -> Pack:
    """A prepared folder, memory-mapped. Raises InputError if it is not one or was made for another head."""
    try:
        facts = json.loads((folder / "pack.json").read_text())
        materials = Materials(
            **{field.name: np.load(folder / f"materials.{field.name}.npy") for field in fields(Materials)}
        )
    except (OSError, ValueError) as error:
        raise InputError(f"{folder}: not a prepared training folder ({error}); see `flexavatar prepare`") from error
    if facts["atlas"] != atlas_digest(head):
        raise InputError(f"{folder}: prepared for a head model with another atlas; run `flexavatar prepare` again")
    groups = {group: read_rows(folder, group) for group in ("views", "held_views", "portraits", "recordings")}
    return Pack(facts["atlas"], facts["digest"], materials, **groups)


def atlas_digest(head: HeadModel) -> str:
    """What texel numbers depend on: topology and UVs, not shapes."""
    return digest_bytes(*(value.numpy().tobytes() for value in (head.faces, head.faces_uv, head.uv)))


_shared: tuple[HeadModel, RenderMesh, HairStyles, np.ndarray] | None = None


def _start(styles: HairStyles) -> None:
    import torch

    global _shared
    torch.set_num_threads(1)
    head = load_head()
    _shared = (head, render_mesh(head, RESOLUTION, SUBDIVISIONS), styles, texel_points(head, RESOLUTION))


def _make(job: tuple[np.ndarray, int, int]) -> SyntheticView:
    assert _shared is not None
    choices, seed, row = job
    head, mesh, styles, points = _shared
    return synthetic_view(head, mesh, styles, choices, points, RESOLUTION, np.random.default_rng((seed, row)))
