"""Rows of a run as a table of means, as CSV, and two runs compared frame by frame."""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flexavatar_cli.core.errors import InputError
from flexavatar_cli.evaluation.metrics import METRICS

FORMAT = 1
KEYS = ("protocol", "group", "system")
FRAME_KEYS = ("protocol", "scene", "group", "system", "frame")
RESAMPLES = 2000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Cell:
    """One mean of the table."""

    mean: float
    count: int  # frames it is over
    total: int  # frames there are; fewer counted where no face was found


Line = dict[str, Any]  # protocol, group, system and the cells by metric


def number(value: object) -> float:
    """A measured value; None (JSON's NaN) is NaN."""
    return float("nan") if value is None else float(value)  # type: ignore[arg-type]


def table(rows: Iterable[Mapping[str, Any]]) -> list[Line]:
    """Mean of each metric over the frames of all scenes, one line per protocol, group and system, in order."""
    lines: dict[tuple[str, ...], dict[str, list[float]]] = {}
    for row in rows:
        values = lines.setdefault(tuple(str(row[key]) for key in KEYS), {})
        for key in METRICS:
            if key in row:
                values.setdefault(key, []).append(number(row[key]))
    result = []
    for names, values in lines.items():
        line: Line = dict(zip(KEYS, names, strict=True))
        line["cells"] = {}
        for key in METRICS:
            if key in values:
                good = [value for value in values[key] if value == value]
                mean = float(np.mean(good)) if good else float("nan")
                line["cells"][key] = Cell(mean, len(good), len(values[key]))
        result.append(line)
    protocols = list(dict.fromkeys(line["protocol"] for line in result))
    groups = ["", "input", "front", "side", "back"]
    result.sort(key=lambda line: (protocols.index(line["protocol"]), groups.index(line["group"])))  # stable
    return result


def best(lines: Sequence[Line], key: str) -> float | None:
    """The best mean of one metric over the lines of one block; None if there is none, or nothing to prefer."""
    if METRICS[key].better == "none":
        return None
    means = [line["cells"][key].mean for line in lines if key in line["cells"]]
    means = [mean for mean in means if mean == mean]
    if not means:
        return None
    choose = {"high": max, "low": min}.get(METRICS[key].better)
    return choose(means) if choose else min(means, key=lambda mean: abs(np.log(max(mean, 1e-6))))


def blocks(lines: Sequence[Line]) -> dict[tuple[str, str], list[Line]]:
    """Lines by (protocol, group)."""
    result: dict[tuple[str, str], list[Line]] = {}
    for line in lines:
        result.setdefault((line["protocol"], line["group"]), []).append(line)
    return result


def shown(cell: Cell | None, digits: int) -> str:
    """A cell as text; how many frames counted, where some did not."""
    if cell is None or cell.mean != cell.mean:
        return "n/a"
    partial = f" ({cell.count}/{cell.total})" if cell.count < cell.total else ""
    return f"{cell.mean:.{digits}f}{partial}"


def is_ours(system: str) -> bool:
    """Whether a row is the network's, not a baseline's."""
    return system.endswith("sink")


@dataclass(frozen=True)
class Loss:
    """A measure in which a baseline beats every row of ours."""

    protocol: str
    group: str
    metric: str
    winner: str
    winning: float
    ours: float


def losses(lines: Sequence[Line]) -> list[Loss]:
    """Every column of every block in which a baseline is strictly better than our best row."""
    found = []
    for (protocol, group), block in blocks(lines).items():
        mine = [line for line in block if is_ours(line["system"])]
        for key in METRICS:
            top, own = best(block, key), best(mine, key)
            if top is None or own is None or top == own:
                continue
            winner = next(line["system"] for line in block if key in line["cells"] and line["cells"][key].mean == top)
            found.append(Loss(protocol, group, key, winner, top, own))
    return found


def as_markdown(lines: Sequence[Line]) -> str:
    """The tables and the list of losses, the best of each column in bold."""
    parts = []
    for (protocol, group), block in blocks(lines).items():
        keys = [key for key in METRICS if any(key in line["cells"] for line in block)]
        top = {key: best(block, key) for key in keys}
        parts.append(f"### {protocol} {group}".rstrip() + "\n")
        parts.append("| | " + " | ".join(METRICS[key].label for key in keys) + " |")
        parts.append("| --- |" + " ---: |" * len(keys))
        for line in block:
            cells = []
            for key in keys:
                cell = line["cells"].get(key)
                text = shown(cell, METRICS[key].digits)
                cells.append(f"**{text}**" if cell is not None and cell.mean == top[key] else text)
            parts.append(f"| {line['system']} | " + " | ".join(cells) + " |")
        parts.append("")
    lost = losses(lines)
    parts.append("### Where a baseline wins\n" if lost else "No baseline wins anywhere.\n")
    for loss in lost:
        metric = METRICS[loss.metric]
        block_name = f"{loss.protocol} {loss.group}".strip()
        numbers = f"{loss.winning:.{metric.digits}f} against our best {loss.ours:.{metric.digits}f}"
        parts.append(f"- {block_name}, {metric.label}: {loss.winner} {numbers}")
    return "\n".join(parts) + "\n"


def as_json(lines: Sequence[Line]) -> list[dict[str, Any]]:
    """The table in JSON's own types."""
    return [
        {key: line[key] for key in KEYS} | {name: vars(cell) for name, cell in line["cells"].items()} for line in lines
    ]


def as_csv(lines: Sequence[Line]) -> str:
    """The table of means."""
    return written([*KEYS, *METRICS], ({**line, **{k: c.mean for k, c in line["cells"].items()}} for line in lines))


def frames_csv(rows: Iterable[Mapping[str, Any]]) -> str:
    """Every single measurement."""
    return written([*FRAME_KEYS, *METRICS], rows)


def written(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """CSV text; NaN and missing values are empty."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        values = (row.get(column) for column in columns)
        writer.writerow(["" if value is None or value != value else value for value in values])
    return stream.getvalue()


def read_result(path: Path) -> dict[str, Any]:
    """A results.json, or what `eval --json` printed. Raises InputError."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        if content["format"] != FORMAT or not all(set(FRAME_KEYS) <= set(row) for row in content["rows"]):
            raise InputError(f"{path}: results of another version of `flexavatar eval`")
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not results of `flexavatar eval` ({error})") from error
    return content


@dataclass(frozen=True)
class Change:
    """What changed from one run to another in one metric of one system."""

    protocol: str
    group: str
    system: str
    metric: str
    before: float
    after: float
    low: float  # interval of the mean change
    high: float
    frames: int

    @property
    def verdict(self) -> str:
        """better, worse, or "" where the interval holds zero (or more is not better)."""
        if self.low <= 0 <= self.high or METRICS[self.metric].better in ("one", "none"):
            return ""
        return "better" if (self.low > 0) == (METRICS[self.metric].better == "high") else "worse"


def compare(before: Mapping[str, Any], after: Mapping[str, Any], seed: int = 0) -> list[Change]:
    """Mean change of every metric over the frames that both runs measured, with paired bootstrap intervals.

    Percentile bootstrap over frames (Efron & Tibshirani 1993, chapter 16): 95 %, 2000 resamples. Frames of one clip
    resemble one another, so with few clips the intervals speak of these clips, not of people in general. Raises
    InputError if the runs have no frame in common.
    """
    pairs: dict[tuple[str, str, str, str], list[tuple[float, float]]] = {}
    first = {tuple(row[key] for key in FRAME_KEYS): row for row in before["rows"]}
    for row in after["rows"]:
        other = first.get(tuple(row[key] for key in FRAME_KEYS))
        if other is None:
            continue
        for key in METRICS:
            one, two = number(other.get(key)), number(row.get(key))
            if one == one and two == two:
                pairs.setdefault((row["protocol"], row["group"], row["system"], key), []).append((one, two))
    if not pairs:
        raise InputError("the two results have no frame of the same protocol, clip and system in common")
    changes = []
    for (protocol, group, system, key), values in pairs.items():
        both = np.array(values)
        low, high = interval(both[:, 1] - both[:, 0], seed)
        mean_before, mean_after = (float(mean) for mean in both.mean(0))
        changes.append(Change(protocol, group, system, key, mean_before, mean_after, low, high, len(both)))
    return changes


def sink_effect(rows: Iterable[Mapping[str, Any]], seed: int = 0) -> list[Change]:
    """What the 3-D sink changes against the 2-D sink, by stage ("encoded", "fitted"); [] if one of them did not run."""
    sides: dict[str, list[dict[str, Any]]] = {"2d": [], "3d": []}
    for row in rows:
        stage, _, sink = row["system"].removesuffix(" sink").partition(", ")
        if sink in sides:
            sides[sink].append({**row, "system": stage})
    return compare({"rows": sides["2d"]}, {"rows": sides["3d"]}, seed) if all(sides.values()) else []


def interval(differences: np.ndarray, seed: int = 0) -> tuple[float, float]:  # [n]
    """Percentile bootstrap interval of the mean."""
    generator = np.random.default_rng(seed)
    chosen = generator.integers(0, len(differences), (RESAMPLES, len(differences)))
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(differences[chosen].mean(1), [tail, 100 - tail])
    return float(low), float(high)
