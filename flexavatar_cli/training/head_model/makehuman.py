"""The MakeHuman head (CC0) from `mh_assets.tar`: random people, and where MediaPipe sees its landmarks on them."""

import io
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from flexavatar_cli.core.errors import InputError
from flexavatar_cli.training.head_model.raycast import Raycaster

DECIMETRE = 0.1
_RACES, _SEXES, _AGES = ("african", "asian", "caucasian"), ("female", "male"), ("child", "young", "old")
_FOLDER = "mh_assets"


@dataclass(frozen=True)
class MakeHuman:
    """Mesh in metres (its own axes origin), sparse targets, one skin picture."""

    base: np.ndarray  # [V, 3] without macros: not yet a person
    faces: np.ndarray  # [F, 3]
    uv: np.ndarray  # [F, 3, 2] of the skin picture, v up
    skin: np.ndarray  # [H, W, 3] uint8
    names: tuple[str, ...]
    kinds: tuple[str, ...]
    targets: tuple[tuple[np.ndarray, np.ndarray], ...]  # vertices [n], displacements [n, 3] metres
    proxies: dict[str, dict[str, np.ndarray]]

    def shape(self, weights: dict[str, float]) -> np.ndarray:
        """Vertices [V, 3] with the named targets at their weights."""
        result = self.base.copy()
        for name, weight in weights.items():
            vertices, displacement = self.targets[self.names.index(name)]
            result[vertices] += weight * displacement
        return result

    def average(self) -> dict[str, float]:
        """Weights of the average adult."""
        return {f"macro/{race}-{sex}-young": 1 / 6 for race in _RACES for sex in _SEXES}

    def sample(self, generator: np.random.Generator) -> dict[str, float]:
        """Weights of a random person: race, sex, age, muscle, weight, and a third of the detail targets."""
        race = dict(zip(_RACES, generator.dirichlet([0.6] * 3), strict=True))
        male = generator.beta(0.5, 0.5)
        old = generator.uniform(0, 0.9)
        child = generator.uniform(0, 0.5) if generator.random() < 0.15 else 0.0
        age = {"child": child, "young": (1 - child) * (1 - old), "old": (1 - child) * old}
        sex = {"female": 1 - male, "male": male}
        bulk = {"muscle": generator.uniform(-0.7, 0.7), "weight": generator.uniform(-0.7, 0.8)}
        level = {k: {"min": max(-v, 0), "average": 1 - abs(v), "max": max(v, 0)} for k, v in bulk.items()}
        weights = {f"macro/{r}-{s}-{a}": race[r] * sex[s] * age[a] for r in _RACES for s in _SEXES for a in _AGES}
        for s in _SEXES:
            for a in _AGES:
                for m, muscle in level["muscle"].items():
                    for w, weight in level["weight"].items():
                        name = f"macro/universal-{s}-{a}-{m}muscle-{w}weight"
                        if name in self.names:
                            weights[name] = sex[s] * age[a] * muscle * weight
        weights |= self._details(generator)
        return {name: float(weight) for name, weight in weights.items() if weight > 0}

    def _details(self, generator: np.random.Generator) -> dict[str, float]:
        """Detail targets: either of an opposite pair, left and right nearly alike."""
        drawn: dict[str, float] = {}
        result = {}
        for name, kind in zip(self.names, self.kinds, strict=True):
            if kind != "detail" or "pointed" in name:
                continue
            folder, _, target = name.partition("/")
            sided = target.startswith(("l-", "r-"))
            stem, _, end = (target[2:] if sided else target).rpartition("-")
            positive = end in ("incr", "up", "out", "forward", "convex")
            pair = f"{folder}/{stem}" if end in _OPPOSITES else f"{folder}/{stem}-{end}"
            if pair not in drawn:
                drawn[pair] = generator.normal(0, 0.3) if generator.random() < 0.35 else 0.0
            amount = drawn[pair] * (generator.uniform(0.85, 1.15) if sided else 1.0)
            if end not in _OPPOSITES:
                amount = abs(amount) if generator.random() < 0.3 else 0.0
            elif not positive:
                amount = -amount
            result[name] = float(np.clip(amount, 0, 0.8))
        return result

    def proxy(self, name: str, vertices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Vertices [n, 3] and faces of the named proxy (eyes, tongue) on the head `vertices`."""
        proxy = self.proxies[name]
        scale = np.full(3, DECIMETRE)
        for axis in np.flatnonzero(proxy["scale_on"]):
            first, second = proxy["scale_ref"][axis]
            scale[axis] = abs(vertices[first, axis] - vertices[second, axis]) / proxy["scale_den"][axis]
        placed = sum(proxy["w"][:, [k]] * vertices[proxy["ref"][:, k]] for k in range(3))
        return placed + proxy["off"] * scale, proxy["faces"].astype(np.int64)


_OPPOSITES = ("incr", "decr", "up", "down", "in", "out", "forward", "backward", "convex", "concave")


def read_makehuman(data: Path) -> MakeHuman:
    """The head in `data/mh_assets.tar`. Raises InputError."""
    try:
        with tarfile.open(data / "mh_assets.tar") as tar:
            head = _arrays(tar, "mh_head.npz")
            proxies = {name: _arrays(tar, f"proxies/{name}.npz") for name in ("eyes_low_poly", "tongue01")}
            skin = np.asarray(Image.open(io.BytesIO(_member(tar, "skins/young_caucasian_male.jpg"))).convert("RGB"))
    except (OSError, ValueError, KeyError, tarfile.TarError) as error:
        raise InputError(f"{data / 'mh_assets.tar'}: cannot be read ({error})") from error
    bounds = list(zip(head["target_ptr"][:-1], head["target_ptr"][1:], strict=True))
    delta = head["target_delta"].astype(np.float64) * DECIMETRE
    return MakeHuman(
        base=head["base"].astype(np.float64) * DECIMETRE,
        faces=head["faces"].astype(np.int64),
        uv=head["uv"][head["faces_uv"].astype(np.int64)].astype(np.float64),
        skin=skin,
        names=tuple(str(name) for name in head["target_names"]),
        kinds=tuple(str(kind) for kind in head["target_kind"]),
        targets=tuple((head["target_idx"][a:b].astype(np.int64), delta[a:b]) for a, b in bounds),
        proxies=proxies,
    )


def _member(tar: tarfile.TarFile, name: str) -> bytes:
    stream = tar.extractfile(f"{_FOLDER}/{name}")
    if stream is None:
        raise KeyError(name)
    return stream.read()


def _arrays(tar: tarfile.TarFile, name: str) -> dict[str, np.ndarray]:
    with np.load(io.BytesIO(_member(tar, name))) as archive:
        return {key: archive[key] for key in archive.files}


def seen_landmarks(
    human: MakeHuman, vertices: np.ndarray, yaws: tuple[float, ...] = (-20, -10, 0, 10, 20)
) -> np.ndarray:
    """MediaPipe's points [468, 3] on the head `vertices`: found in shaded views, cast back, median over the views.

    A point is NaN where fewer than two views hit the surface.
    """
    import mediapipe

    eyes, eye_faces = human.proxy("eyes_low_poly", vertices)
    every = np.concatenate([vertices, eyes])
    faces = np.concatenate([human.faces, eye_faces + len(vertices)])
    colours = _face_colours(human, eyes, eye_faces)
    caster = Raycaster(every, faces)
    target = eyes.mean(0) - [0, 0.03, 0]
    found = []
    with mediapipe.solutions.face_mesh.FaceMesh(static_image_mode=True, refine_landmarks=True) as mesh:
        for yaw in yaws:
            picture, origin, directions = caster.shaded(target, yaw, colours, size=512, width=0.34)
            result = mesh.process(picture)
            if not result.multi_face_landmarks:
                continue
            points = np.array([[p.x, p.y] for p in result.multi_face_landmarks[0].landmark[:468]])
            found.append(caster.back(points, origin, directions))
    if not found:
        raise InputError("MakeHuman: MediaPipe finds no face on the rendered head")
    stack = np.stack(found)
    seen = np.isfinite(stack[..., 0]).sum(0)
    with np.errstate(all="ignore"):
        median = np.nanmedian(stack, 0)
    return np.where((seen >= min(2, len(found)))[:, None], median, np.nan)


def _face_colours(human: MakeHuman, eyes: np.ndarray, eye_faces: np.ndarray) -> np.ndarray:
    """Colour [F, 3] per triangle, 0..1: the skin picture at its centre; eyes white with dark irises."""
    height, width = human.skin.shape[:2]
    centre = human.uv.mean(1)
    row = np.clip(((1 - centre[:, 1]) * height).astype(int), 0, height - 1)
    skin = human.skin[row, np.clip((centre[:, 0] * width).astype(int), 0, width - 1)] / 255
    eye = np.full((len(eye_faces), 3), 0.9)
    middle = eyes[eye_faces].mean(1)
    for side in (middle[:, 0] > 0, middle[:, 0] < 0):
        front = middle[side][middle[side][:, 2].argmax()]
        eye[side & (np.linalg.norm(middle - front, axis=1) < 0.006)] = (0.25, 0.15, 0.1)
    return np.concatenate([skin, eye])
