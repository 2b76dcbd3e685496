"""Photos of different people: each avatar against its own photo and the others', and the heads between two of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np

from flexavatar_cli.evaluation.baselines import Body, Ours
from flexavatar_cli.evaluation.metrics import cosine
from flexavatar_cli.evaluation.networks import Judges
from flexavatar_cli.evaluation.protocols import Bench, OnStep, Row, all_around, confined, measure
from flexavatar_cli.evaluation.quality import agreement, holes, shoulder_row, silhouette_iou
from flexavatar_cli.evaluation.report import Strip
from flexavatar_cli.evaluation.scenes import Scene, clip_scene, spread
from flexavatar_cli.evaluation.sheet import HIDDEN, hidden_pictures
from flexavatar_cli.evaluation.views import seen_from
from flexavatar_cli.media.images import to_uint8
from flexavatar_cli.stages.animation import puppet
from flexavatar_cli.stages.instruments import Instruments
from flexavatar_cli.stages.interpolation import interpolated
from flexavatar_cli.stages.shots import Shot
from flexavatar_cli.stages.trajectories import turn

PROTOCOL, BETWEEN = "portraits", "interpolation"
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the second person
SIDEWAYS = 60  # degrees; in-between heads are also pictured from there
PAIRS = 15  # of people at most, spread evenly over all there are

Vector = np.ndarray | None  # [D] face embedding; None where no face was found, or there is no network


@dataclass(frozen=True)
class Person:
    """One photo, the heads made of it, and how a face network sees the photo and their front renders."""

    name: str
    scene: Scene
    bodies: list[Body]
    photo: Vector
    renders: dict[str, Vector]  # by name of the body

    @property
    def last(self) -> Ours:
        """The avatar that a user would get: after fitting if there was any, under the first bias sink of the run."""
        avatars = [body for body in self.bodies if isinstance(body, Ours)]
        stage = avatars[-1].name.split(",")[0]
        return next(body for body in avatars if body.name.startswith(stage))


def portrait_scene(shot: Shot, name: str) -> Scene:
    """A photo that is both the source and the one target."""
    return clip_scene(PROTOCOL, name, shot, 0, [0])


def measure_person(
    bench: Bench, scene: Scene, bodies: Sequence[Body], on_step: OnStep | None = None
) -> tuple[Person, list[Row], list[Strip]]:
    """One row per head: likeness to the photo, holes, and for fitted ones what became of the views not in the photo.

    The strips show these views, a strip per yaw.
    """
    rows = {row["system"]: row for row in measure(bench, scene, bodies, on_step)}
    (target,) = scene.targets(scene.numbers)
    photo = embedded(bench.judges, to_uint8(target.shown()), target.landmarks)
    renders: dict[str, Vector] = {}
    before: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    pictures: dict[int, dict[str, np.ndarray]] = {azimuth: {} for azimuth in HIDDEN}
    neck = shoulder_row(target.camera)
    for body in bodies:
        with bench.clock("render"):
            rgb, alpha = confined(body.show(target), target)
        row = rows[body.name]
        row["iou_head"] = silhouette_iou(alpha, target.matte, neck, target.inside)
        renders[body.name] = embedded(bench.judges, to_uint8(rgb), target.landmarks)
        rest = np.zeros(len(body.expression_names), np.float32)
        with bench.clock("render"):
            row["holes"] = float(np.mean([holes(alpha) for _, alpha in body.pose(rest, all_around())]))
        if not isinstance(body, Ours):
            continue
        with bench.clock("render"):
            sides = list(hidden_pictures(body.figure))
        stage, sink = body.name.split(", ")
        for azimuth, (rgb, _) in zip(HIDDEN, sides, strict=True):
            pictures[azimuth][body.name] = rgb
        if stage == "encoded":
            before[sink] = sides
        else:
            row |= kept(before[sink], sides)
    person = Person(scene.name, scene, list(bodies), photo, renders)
    return person, list(rows.values()), [Strip(f"yaw {azimuth}", shown) for azimuth, shown in pictures.items()]


def kept(before: Sequence[tuple[np.ndarray, np.ndarray]], after: Sequence[tuple[np.ndarray, np.ndarray]]) -> Row:
    """Agreement of the HIDDEN views by their yaw from the front, the worse of left and right."""
    row: Row = {}
    for azimuth, one, other in zip(HIDDEN, before, after, strict=True):
        key = f"hidden_{min(azimuth, 360 - azimuth)}"
        row[key] = min(agreement(one, other), row.get(key, np.inf))
    return row


def embedded(judges: Judges, picture: np.ndarray, near: np.ndarray | None) -> Vector:  # uint8 [H, W, 3], [478, 2]
    """The embedding of the face in a picture, looked for around landmarks `near`."""
    if judges.embedding is None:
        return None
    face = judges.face(picture, near)
    return None if face is None else judges.embedding.embed(picture, face)


def told_apart(people: Sequence[Person]) -> dict[tuple[str, str], Row]:
    """By (person, system): mean CSIM with the others' photos, and the share of these less alike than the own photo.

    A render in which no face is found counts as mistaken for everybody; photos without a face are left out.
    """
    rows: dict[tuple[str, str], Row] = {}
    for person in people:
        others = [other.photo for other in people if other is not person and other.photo is not None]
        if person.photo is None or not others:
            continue
        for system, vector in person.renders.items():
            if vector is None:
                rows[person.name, system] = {"csim_wrong": float("nan"), "told_apart": 0.0}
                continue
            wrong = np.array([cosine(vector, other) for other in others])
            share = float((wrong < cosine(vector, person.photo)).mean())
            rows[person.name, system] = {"csim_wrong": float(wrong.mean()), "told_apart": share}
    return rows


def chosen_pairs(people: Sequence[Person]) -> list[tuple[Person, Person]]:
    """Every two people, or PAIRS of them spread evenly."""
    pairs = list(combinations(people, 2))
    return [pairs[at] for at in spread(len(pairs), PAIRS)]


def heads_between(
    bench: Bench, first: Person, second: Person, instruments: Instruments, on_step: OnStep | None = None
) -> tuple[list[Row], list[Strip]]:
    """The heads between two people: a row per share, and a strip each from the front and from SIDEWAYS.

    A row's `monotonic` says whether, since the share before, the face went away from the first photo and towards the
    second.
    """
    cameras = turn(np.radians([0, SIDEWAYS]), 512)
    name = f"{first.name} to {second.name}"
    ends = {"A": first.scene.source.on_white, "B": second.scene.source.on_white}
    strips: list[dict[str, np.ndarray]] = [{"A": ends["A"]}, {"A": ends["A"]}]
    rows: list[Row] = []
    for number, share in enumerate(SHARES):
        with bench.clock("render"):
            figure = puppet(interpolated(first.last.avatar, second.last.avatar, share), instruments)
            shown = list(seen_from(figure, figure.neutral, cameras))
        row: Row = {"protocol": BETWEEN, "scene": name, "group": "", "frame": round(100 * share)}
        row |= {"system": f"{share:.2f}", "holes": float(np.mean([holes(alpha) for _, alpha in shown]))}
        with bench.clock("measure"):
            vector = embedded(bench.judges, to_uint8(shown[0][0]), None)
        if bench.judges.embedding is not None:
            row |= {"csim_a": similarity(vector, first.photo), "csim_b": similarity(vector, second.photo)}
        rows.append(row)
        for strip, (rgb, _) in zip(strips, shown, strict=True):
            strip[f"{share:.2f}"] = rgb
        if on_step is not None:
            on_step(number + 1, len(SHARES))
    if bench.judges.embedding is not None:
        for before, after in pairwise(rows):
            after["monotonic"] = float(after["csim_a"] < before["csim_a"] and after["csim_b"] > before["csim_b"])
    titles = (f"{first.last.name}, from the front", f"{first.last.name}, from {SIDEWAYS} degrees")
    return rows, [Strip(title, strip | {"B": ends["B"]}) for title, strip in zip(titles, strips, strict=True)]


def similarity(one: Vector, other: Vector) -> float:
    """Cosine; NaN where a face is missing."""
    return float("nan") if one is None or other is None else cosine(one, other)
