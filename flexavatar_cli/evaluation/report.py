"""The report: one HTML file with its pictures and plots inside, nothing loaded from elsewhere."""

import base64
import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
from PIL import Image

from flexavatar_cli.evaluation import summary
from flexavatar_cli.evaluation.baselines import System
from flexavatar_cli.evaluation.metrics import METRICS
from flexavatar_cli.evaluation.protocols import Row, confined, difference
from flexavatar_cli.evaluation.scenes import Scene
from flexavatar_cli.media.images import resize, sheet, to_uint8

THUMB = 224  # pixels
COLORS = ("#7a7a7a", "#b0703c", "#3c8d5a", "#6fa8dc", "#b4a7d6", "#1f5fbf", "#7b2fa8")
PLOTTED = ("psnr_matte", "ssim_matte", "lpips", "akd", "csim", "aed", "apd")
STYLE = """
body{font:14px/1.45 system-ui,sans-serif;margin:24px auto;max-width:1500px;padding:0 16px;color:#222;background:#fff}
h1{font-size:22px}h2{font-size:18px;margin-top:36px;border-bottom:1px solid #ddd}h3{font-size:15px;margin:20px 0 6px}
table{border-collapse:collapse;margin:8px 0}td,th{padding:3px 9px;text-align:right;border-bottom:1px solid #eee}
td:first-child,th:first-child{text-align:left}.best{font-weight:700}.baseline.best{color:#b03a1a}
.pictures td{text-align:center;padding:2px;border:0;font-size:12px;vertical-align:top}
.small{color:#666;font-size:12px}
.plots{display:flex;flex-wrap:wrap;gap:14px}img{display:block}
"""


@dataclass(frozen=True)
class Strip:
    """One frame of a scene as every system shows it."""

    title: str
    pictures: dict[str, np.ndarray]  # [H, W, 3] float; "truth" or "driver" first


def chosen_frames(rows: Sequence[Row], scene: Scene, reference: str) -> dict[str, int]:
    """The worst, median and best frame of a scene for one system: by LPIPS, PSNR in the matte or AED, as measured."""
    own = [row for row in rows if row["scene"] == scene.name and row["protocol"] == scene.protocol]
    own = [row for row in own if row["system"] == reference and row["frame"] >= 0]
    for key in ("lpips", "psnr_matte", "aed"):
        scored = [
            (summary.number(row[key]), row["frame"]) for row in own if summary.number(row.get(key)) == row.get(key)
        ]
        if scored:
            scored.sort(reverse=METRICS[key].better == "low")  # worst first
            if len(scored) == 1:
                return {f"{METRICS[key].label} {scored[0][0]:.3f}": scored[0][1]}
            picks = {"worst": scored[0], "median": scored[len(scored) // 2], "best": scored[-1]}
            return {f"{name} {METRICS[key].label} {score:.3f}": frame for name, (score, frame) in picks.items()}
    return {}


def strips(rows: Sequence[Row], scene: Scene, systems: Sequence[System]) -> list[Strip]:
    """Pictures of the worst, median and best frame of the last system (ours), or, of a novel-view set, of all sides."""
    picks = chosen_frames(rows, scene, systems[-1].name)
    if scene.groups is not None:
        middle = {
            group: [n for n in scene.numbers if scene.groups[n] == group]
            for group in ("input", "front", "side", "back")
        }
        picks = {group: members[len(members) // 2] for group, members in middle.items() if members}
    frames: dict[int, list[str]] = {}
    for label, frame in picks.items():
        frames.setdefault(frame, []).append(label)
    result = {}
    for target in scene.targets(sorted(frames)):
        truth = target.shown()
        pictures = {"source": scene.source.on_white, "truth" if scene.truth else "driver": truth}
        shown: dict[str, np.ndarray] = {}
        for system in systems:
            shown[system.name] = confined(system.show(target), target)[0]
        pictures |= shown
        if scene.truth:
            pictures |= {f"error: {name}": difference(rgb, truth) for name, rgb in shown.items()}
        result[target.number] = Strip(f"{', '.join(frames[target.number])} (frame {target.number})", pictures)
    return [result[number] for number in dict.fromkeys(picks.values())]


def contact_sheets(pictures: Sequence[Strip], side: int = 256) -> list[np.ndarray]:
    """The strips of a scene as pictures [H, W, 3], errors left out: a row per strip, a column per system.

    Strips that show the same systems share a picture.
    """

    def names(strip: Strip) -> list[str]:
        return [name for name in strip.pictures if not name.startswith("error: ")]

    sheets = []
    for columns, strips in groupby(pictures, names):
        sheets.append(sheet([[strip.pictures[name] for name in columns] for strip in strips], columns, side))
    return sheets


def jpeg(picture: np.ndarray, side: int = THUMB, quality: int = 84) -> str:
    """An `img` source with the picture in it."""
    stream = io.BytesIO()
    Image.fromarray(to_uint8(resize(np.asarray(picture, np.float32), (side, side)))).save(
        stream, "JPEG", quality=quality
    )
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()


def plot(title: str, series: Mapping[str, Sequence[tuple[float, float]]], width: int = 460, height: int = 200) -> str:
    """A line plot as inline SVG: (x, y) of each series; NaN breaks nothing, it is left out."""
    points = {name: [(x, y) for x, y in values if y == y] for name, values in series.items()}
    every = [point for values in points.values() for point in values]
    if not every:
        return ""
    left, top, right, bottom = 48, 22, width - 8, height - 20
    xs, ys = zip(*every, strict=True)
    (x0, x1), (y0, y1) = (min(xs), max(xs)), (min(ys), max(ys))
    x1, y1 = x1 if x1 > x0 else x0 + 1, y1 if y1 > y0 else y0 + 1e-6

    def at(x: float, y: float) -> str:
        return (
            f"{left + (x - x0) / (x1 - x0) * (right - left):.1f},{bottom - (y - y0) / (y1 - y0) * (bottom - top):.1f}"
        )

    lines = []
    for order, (name, values) in enumerate(points.items()):
        path = " ".join(at(x, y) for x, y in values)
        color = COLORS[order % len(COLORS)]
        lines.append(
            f'<polyline fill="none" stroke="{color}" stroke-width="1.6" points="{path}">'
            f"<title>{html.escape(name)}</title></polyline>"
        )
    marks = "".join(
        f'<text x="{x}" y="{y}" text-anchor="{anchor}">{value}</text>'
        for x, y, anchor, value in (
            (left - 4, top + 4, "end", f"{y1:.3g}"),
            (left - 4, bottom, "end", f"{y0:.3g}"),
            (left, height - 5, "start", f"{x0:g}"),
            (right, height - 5, "end", f"{x1:g}"),
        )
    )
    frame = f'<rect x="{left}" y="{top}" width="{right - left}" height="{bottom - top}" fill="none" stroke="#ccc"/>'
    head = f'<text x="{left}" y="14" font-weight="bold">{html.escape(title)}</text>'
    style = f'width="{width}" height="{height}" font-size="11" font-family="sans-serif"'
    return f"<svg {style}>{head}{frame}{marks}{''.join(lines)}</svg>"


def plots(rows: Sequence[Row], protocol: str, scene: str) -> str:
    """Each metric over the frames of one scene, a line per system, with a legend."""
    own = [row for row in rows if row["protocol"] == protocol and row["scene"] == scene and row["frame"] >= 0]
    systems = list(dict.fromkeys(row["system"] for row in own))
    keys = ("holes",) if protocol == "completeness" else PLOTTED
    parts = []
    for key in keys:
        series = {
            system: [(row["frame"], summary.number(row[key])) for row in own if row["system"] == system and key in row]
            for system in systems
        }
        if any(series.values()):
            unit = f" ({METRICS[key].unit})" if METRICS[key].unit else ""
            parts.append(plot(METRICS[key].label + unit, series))
    if not any(parts):
        return ""
    legend = " ".join(
        f'<span style="color:{COLORS[order % len(COLORS)]}">&#9632; {html.escape(name)}</span>'
        for order, name in enumerate(systems)
    )
    return f'<p class="small">{legend}</p><div class="plots">{"".join(parts)}</div>'


def page(result: Mapping[str, Any], pictures: Mapping[tuple[str, str], Sequence[Strip]]) -> str:
    """The whole report of a result as written to results.json, and the pictures of each (protocol, scene)."""
    rows = result["rows"]
    parts = ["<h1>flexavatar eval</h1>", facts(result)]
    lines = summary.table(rows)
    for (protocol, group), block in summary.blocks(lines).items():
        parts.append(f"<h3>{html.escape(protocol)}{': ' + html.escape(group) if group else ''}</h3>{html_table(block)}")
    parts.append(sink_table(summary.sink_effect(rows, result["run"]["seed"])))
    parts.append(
        "<p class='small'>Bold: best of its column; red: a baseline wins. (a/b): a face was found in a of b frames.</p>"
    )
    scenes = dict.fromkeys((row["protocol"], row["scene"]) for row in rows)
    for protocol, scene in scenes:
        parts.append(f"<h2>{html.escape(protocol)}: {html.escape(scene)}</h2>")
        own = [row for row in rows if (row["protocol"], row["scene"]) == (protocol, scene)]
        if protocol == "novel view":
            parts.append(f'<p class="small">{html.escape(result["notes"][scene])}</p>')
        if protocol == "portraits":
            parts.append(html_table(summary.table(own)))
        for strip in pictures.get((protocol, scene), ()):
            parts.append(f"<h3>{html.escape(strip.title)}</h3>{html_strip(strip)}")
        if protocol == "interpolation":
            ends = {"A": "csim_a", "B": "csim_b"}
            series = {end: [(row["frame"], summary.number(row.get(key))) for row in own] for end, key in ends.items()}
            parts.append(plot("CSIM with A (grey) and B (brown) over the share of B, percent", series))
        elif protocol not in ("novel view", "portraits"):
            parts.append(plots(rows, protocol, scene))
    parts.append("<h2>Stages</h2>" + stages(result) + "<h2>What is measured</h2>" + measures(result))
    body = "\n".join(parts)
    head = f'<meta charset="utf-8"><title>flexavatar eval</title><style>{STYLE}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n{body}\n</body></html>\n'


def facts(result: Mapping[str, Any]) -> str:
    """What was run on what."""
    items = {"date": result["date"], "version": result["version"], **result["run"]}
    cells = "".join(f"<tr><td>{html.escape(str(k))}</td><td>{html.escape(str(v))}</td></tr>" for k, v in items.items())
    return f"<table>{cells}</table>"


def html_table(block: Sequence[summary.Line]) -> str:
    """One block of the table of means."""
    keys = [key for key in METRICS if any(key in line["cells"] for line in block)]
    head = "".join(f"<th>{METRICS[key].label}</th>" for key in keys)
    top = {key: summary.best(block, key) for key in keys}
    lines = []
    for line in block:
        kind = "" if summary.is_ours(line["system"]) else "baseline"
        cells = []
        for key in keys:
            cell = line["cells"].get(key)
            mark = "best" if cell is not None and cell.mean == top[key] else ""
            cells.append(f'<td class="{kind} {mark}">{summary.shown(cell, METRICS[key].digits)}</td>')
        lines.append(f"<tr><td>{html.escape(line['system'])}</td>{''.join(cells)}</tr>")
    return f"<table><tr><th>system</th>{head}</tr>{''.join(lines)}</table>"


def sink_table(changes: Sequence[summary.Change]) -> str:
    """What the 3-D sink changes on views from all sides; "" without such views."""
    lines = []
    for change in changes:
        if change.protocol != "novel view" or change.metric not in ("psnr_matte", "lpips", "iou"):
            continue
        metric = METRICS[change.metric]
        values = [f"{value:.{metric.digits}f}" for value in (change.before, change.after)]
        span = f"{change.low:+.{metric.digits}f} to {change.high:+.{metric.digits}f}"
        cells = [change.group, change.system, metric.label, *values, span, change.verdict]
        lines.append("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>")
    head = "".join(f"<th>{name}</th>" for name in ("side", "stage", "metric", "2d sink", "3d sink", "95 %", "3d is"))
    return f"<h3>Bias sinks, paired by view</h3><table><tr>{head}</tr>{''.join(lines)}</table>" if lines else ""


def html_strip(strip: Strip) -> str:
    """Pictures in two rows: what is shown, and below each its error."""
    names = [name for name in strip.pictures if not name.startswith("error: ")]
    first = "".join(
        f'<td><img src="{jpeg(strip.pictures[name])}" width="{THUMB}" alt="">{html.escape(name)}</td>' for name in names
    )
    errors = []
    for name in names:
        error = strip.pictures.get(f"error: {name}")
        errors.append("<td></td>" if error is None else f'<td><img src="{jpeg(error)}" width="{THUMB}" alt=""></td>')
    second = f"<tr>{''.join(errors)}</tr>" if any("img" in cell for cell in errors) else ""
    return f'<table class="pictures"><tr>{first}</tr>{second}</table>'


def stages(result: Mapping[str, Any]) -> str:
    """Time and memory."""
    names = ("stage", "seconds", "CPU seconds", "times", "s each", "peak MB")
    head = f"<tr>{''.join(f'<th>{name}</th>' for name in names)}</tr>"
    lines = [
        f"<tr><td>{html.escape(name)}</td><td>{stage['seconds']:.1f}</td><td>{stage['cpu_seconds']:.1f}</td>"
        f"<td>{stage['times']:.0f}</td>"
        f"<td>{stage['seconds'] / max(stage['times'], 1):.3f}</td><td>{stage['peak_mb']:.0f}</td></tr>"
        for name, stage in result["stages"].items()
    ]
    return f"<table>{head}{''.join(lines)}</table>"


def measures(result: Mapping[str, Any]) -> str:
    """Definition, convention and network of each metric."""
    lines = [
        f"<tr><td>{html.escape(metric.label)}</td><td style='text-align:left'>{html.escape(metric.source)}</td>"
        f"<td style='text-align:left'>{html.escape(result['networks'].get(key, ''))}</td></tr>"
        for key, metric in METRICS.items()
    ]
    return f"<table><tr><th>metric</th><th>convention</th><th>network</th></tr>{''.join(lines)}</table>"
