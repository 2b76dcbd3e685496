"""docs/results.md from the results of `flexavatar eval`: one command after new weights.

    python benchmarks/results.py {CLIPS,SYNTHETIC,DEV,PORTRAITS}/results.json -o docs/results.md

Each file becomes a section, named after what it measured. With `-o` the contact sheets named in the document are
copied from the `pictures` folder beside each file to `images` beside the document; without it only the text is printed.
"""

import argparse
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flexavatar_cli.core.errors import FlexAvatarError
from flexavatar_cli.evaluation import summary
from flexavatar_cli.evaluation.metrics import METRICS
from flexavatar_cli.evaluation.portraits import PROTOCOL as PORTRAITS

Result = Mapping[str, Any]  # the content of a results.json

ENCODED, FITTED = "encoded, 3d sink", "fitted, 3d sink"  # what `create` makes: the 3-D sink is its default
SPLIT = Path(__file__).resolve().parents[1] / "models" / "open-1" / "dev_split.txt"
STILL, WARPED, ON_RIG = "still photo", "warped photo", "photo on rig"
CHAIN = (ON_RIG, ENCODED, "encoded, 2d sink", FITTED, "fitted, 2d sink")
TOLD = ("psnr_matte", "lpips", "akd", "csim", "holes")  # of these the chain is written out in words
PICTURED = {  # sheets of each protocol that the document shows, at most, and what is seen
    "self": (1, "The worst, median and best frame of a self-reenactment, by LPIPS"),
    "cross": (1, "The worst, median and best frame of a cross-reenactment, by AED"),
    "novel view": (1, "A synthetic head from the input's side, the front, the side and the back"),
    "portraits": (2, "A portrait: photo and front views; below, the views that the photo does not show"),
    "interpolation": (1, "From one person's avatar to another's, from the front and from 60 degrees"),
}
INTRODUCTION = (
    "Rows: *still photo* = the input held still; *warped photo* = it and its matte warped in 2-D by the driver's "
    "landmarks (piecewise affine); *photo on rig* = the rigged head with the projected photo, completed in closed "
    "form, no network; *encoded* = our network in one pass; *fitted* = after fitting on the input photo alone; each "
    "with each bias sink. All pictures are 512 px. Bold: the best of its column. (a/b): a face was found in a of b "
    "frames. SSIM leaves the 5 px border out (scikit-image); torchmetrics, which the published table used, counts it "
    "mirrored. The HTML report of a run defines the columns, with their references."
)
SECTIONS = {
    "clips": (
        "Clips",
        "Avatar from one frame of each clip; cross: each clip drives the next one's avatar. Self-reenactment of a "
        "short talking clip suits photos: the head hardly leaves its first place, so the still and the warped photo, "
        "which need not invent a pixel, set a hard mark. Both are flat: they have no completeness row and no other "
        "side; the still photo has no motion, so its AKD, AED, APD and flicker are those of a picture that does not "
        "follow.",
    ),
    "sides": (
        "All sides",
        "Avatar from one frontal picture, compared with true pictures from all around: front is within 45 degrees of "
        "azimuth, back beyond 135; *input* is the picture that the avatar was made of, in its tracked camera. The "
        "other cameras are known and registered to the avatar by 3-D face landmarks, as each head's line says.",
    ),
    "dev": (
        "Portraits that training never saw",
        "Those of `models/open-1/dev_split.txt` that the packs have at 512 px, each by itself, cut to what was taken; "
        "`benchmarks/dev_portraits.py` unpacks them. own > wrong: share of the other people's photos that the face "
        "network finds less like the avatar than its own. The pictures are unseen, not all of the people: "
        "`docs/limits.md`.",
    ),
    "photos": (
        "Photos of different people",
        "Avatar from each photo, compared with that photo. hid 90, 135, 180: views before against after fitting, "
        "inside the heads alone, yaw to the worse side (`docs/measurements.md` counts whole renders, as "
        "`create --sheet` does). own > wrong: share of the other people's photos that the face network finds less "
        "like the "
        "avatar than its own. Interpolation: code and identity between the fitted avatars of two people, CSIM of the "
        "front render with the photo of each.",
    ),
}


def main() -> None:
    """Read, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+", type=Path, help="results.json files of `flexavatar eval`")
    parser.add_argument("-o", "--output", type=Path, help="the document; without it, stdout")
    options = parser.parse_args()
    try:
        results = [summary.read_result(path) for path in options.results]
    except FlexAvatarError as error:
        sys.exit(f"results.py: {error}")
    pictures = [chosen_pictures(path, result) for path, result in zip(options.results, results, strict=True)]
    text = document(results, pictures)
    if options.output is None:
        print(text, end="")
        return
    folder = options.output.parent / "images"
    folder.mkdir(parents=True, exist_ok=True)
    for chosen in pictures:
        for source, name, _ in chosen:
            shutil.copyfile(source, folder / name)
    options.output.write_text(text, encoding="utf-8")


def chosen_pictures(path: Path, result: Result) -> list[tuple[Path, str, str]]:
    """(file, its name in the document, what is seen) of the first scene of each protocol; none of the dev split."""
    found: list[tuple[Path, str, str]] = []
    if kind_of(result) == "dev":
        return found  # research material: measured, not shown
    for protocol, (count, words) in PICTURED.items():
        scene = next((row["scene"] for row in result["rows"] if row["protocol"] == protocol), None)
        if scene is None:
            continue
        stem = re.sub(r"[^\w.-]+", "-", f"{protocol}-{scene}")  # as `eval` names them
        for number in range(1, count + 1):
            suffix = "" if number == 1 else f"-{number}"
            source = path.parent / "pictures" / f"{stem}{suffix}.jpg"
            if source.is_file():
                found.append((source, f"eval-{protocol.replace(' ', '-')}{suffix}.jpg", words))
    return found


def document(results: Sequence[Result], pictures: Sequence[Sequence[tuple[Path, str, str]]]) -> str:
    """The whole of docs/results.md."""
    parts = [
        "# Results\n",
        "What `flexavatar eval` measured, with nothing left out: where a baseline wins it is listed. Written by\n"
        "`benchmarks/results.py` from the results of these runs:\n",
        facts(results),
        textwrap.fill(INTRODUCTION, 120) + "\n",
        bars(results),
    ]
    for result, chosen in zip(results, pictures, strict=True):
        parts.append(section(result, chosen))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(parts))


def kind_of(result: Result) -> str:
    """clips, sides, dev or photos: which of SECTIONS a result belongs to."""
    protocols = {row["protocol"] for row in result["rows"]}
    held_out = set(SPLIT.read_text(encoding="utf-8").splitlines())
    scenes = {row["scene"] for row in result["rows"] if row["protocol"] == PORTRAITS}
    if scenes and scenes <= held_out:
        return "dev"
    return "photos" if PORTRAITS in protocols else "sides" if "novel view" in protocols else "clips"


def facts(results: Sequence[Result]) -> str:
    """Program, weights and networks; a run's own where they differ."""
    rows: dict[str, list[str]] = {}
    for result in results:
        run, networks = result["run"], result["networks"]
        values = {
            "program": f"commit `{result['commit']}`, version {result['version']}",
            "date": result["date"].replace("T", " ").removesuffix("+00:00") + " UTC",
            "weights": run["weights"],
            "head model": run["head_model"],
            "mattes": run["matting"],
            "rasteriser": f"{run['backend']} on {run['device']}",
        }
        values |= {METRICS[key].label: text for key, text in networks.items()}
        for name, value in values.items():
            rows.setdefault(name, []).append(f"{SECTIONS[kind_of(result)][0].lower()}: {value}")
    lines = []
    for name, values in rows.items():
        plain = list(dict.fromkeys(value.split(": ", 1)[1] for value in values))
        lines.append([name, plain[0] if len(plain) == 1 else "; ".join(values)])
    return table(["", ""], lines)


@dataclass(frozen=True)
class Bar:
    """Something that issue 5 asks of the weights."""

    what: str
    protocol: str
    group: str
    system: str
    metric: str
    least: float | None = None
    most: float | None = None
    of: Callable[[list[float]], float] = lambda values: float(np.mean(values))
    summarised: str = "mean"


def lowest(values: list[float]) -> float:
    """The worst of values of which more is better."""
    return float(min(values))


def highest(values: list[float]) -> float:
    """The worst of values of which less is better."""
    return float(max(values))


BARS = (
    Bar("one pass, front view", "portraits", "", ENCODED, "psnr_matte", least=23),
    Bar("one pass, told from the others", "portraits", "", ENCODED, "told_apart", least=0.95),
    Bar("fitted, front view", "portraits", "", FITTED, "psnr_matte", least=30),
    Bar("fitted, front view", "portraits", "", FITTED, "lpips", most=0.10),
    *(
        Bar("hidden views after fitting", "portraits", "", FITTED, f"hidden_{yaw}", 24, None, lowest, "worst")
        for yaw in (90, 135, 180)
    ),
    Bar("self-reenactment, the paper's VFHQ row", "self", "", FITTED, "psnr_black", least=23.3),
    Bar("self-reenactment, the paper's VFHQ row", "self", "", FITTED, "ssim_black", least=0.835),
    Bar("self-reenactment, the paper's VFHQ row", "self", "", FITTED, "lpips", most=0.099),
    Bar("self-reenactment, the paper's VFHQ row", "self", "", FITTED, "akd", most=3.0),
    Bar("self-reenactment, the paper's VFHQ row", "self", "", FITTED, "csim", least=0.83),
    *(  # the issue names no ground: the paper's tables are on black, white is the harder one
        Bar(f"synthetic novel views on {ground}", "novel view", group, FITTED, metric, least=least)
        for ground, metric in (("black", "psnr_black"), ("white", "psnr"))
        for group, least in (("front", 22), ("side", 20), ("back", 18))
    ),
    Bar("closed over 360 degrees", "completeness", "", FITTED, "holes", None, 0.0, highest, "worst"),
)


def bars(results: Sequence[Result]) -> str:
    """Each bar of issue 5 that the results speak of, what was measured, and whether it is met."""
    lines = []
    for bar in BARS:
        told = [(result, values) for result in results if (values := values_of(result, bar))]
        for result, values in told:
            good = [value for value in values if value == value]
            if not good:
                continue
            digits = METRICS[bar.metric].digits
            measured = round(bar.of(good), digits)  # what is shown decides
            met = measured >= bar.least if bar.least is not None else measured <= (bar.most or 0.0)
            asked = f">= {bar.least:g}" if bar.least is not None else f"<= {bar.most:g}"
            where = " ".join(part for part in (bar.protocol, bar.group) if part)
            if len(told) > 1:
                where = f"{where}: {SECTIONS[kind_of(result)][0].lower()}"
            partial = f" ({len(good)}/{len(values)})" if len(good) < len(values) else ""
            name = f"{METRICS[bar.metric].label} {METRICS[bar.metric].unit}".strip()
            shown = f"{bar.summarised} {measured:.{digits}f}{partial}"
            lines.append([f"{bar.what} ({where}; {bar.system})", name, asked, shown, "met" if met else "**missed**"])
    steps = [row["monotonic"] for result in results for row in result["rows"] if row.get("monotonic") is not None]
    if steps:
        share = float(np.mean(steps))
        lines.append(
            ["from A to B (interpolation)", "steps that are monotonic", "all", f"{sum(steps):.0f} of {len(steps)}",
             "met" if share == 1 else "**missed**"]
        )  # fmt: skip
    lines += against_baselines(results)
    if not lines:
        return ""
    why = "\nWhat limits those that are missed, by experiment: `docs/limits.md`.\n"
    return "## The bars of issue 5\n\n" + table(["", "", "asked", "measured", ""], lines) + why


def against_baselines(results: Sequence[Result]) -> list[list[str]]:
    """Whether self-reenactment after fitting beats each classical baseline in PSNR, LPIPS and AKD."""
    lines_of = (line for result in results for line in summary.table(result["rows"]))
    means = {
        line["system"]: {key: cell.mean for key, cell in line["cells"].items()}
        for line in lines_of
        if line["protocol"] == "self"
    }
    lines = []
    for key in ("psnr", "lpips", "akd"):
        if FITTED not in means or key not in means[FITTED]:
            continue
        metric, own = METRICS[key], means[FITTED][key]
        rivals = {name: means[name][key] for name in (STILL, WARPED, ON_RIG) if name in means}
        lost = [
            f"{name} {value:.{metric.digits}f}"
            for name, value in rivals.items()
            if (value >= own if metric.better == "high" else value <= own)
        ]
        verdict = f"**missed** against {', '.join(lost)}" if lost else "met"
        shown = f"mean {own:.{metric.digits}f}"
        lines.append([f"self-reenactment ({FITTED})", metric.label, "better than all three baselines", shown, verdict])
    return lines


def values_of(result: Result, bar: Bar) -> list[float]:
    """Every measured value that a bar is about."""
    places = ("protocol", "group", "system")
    wanted = (bar.protocol, bar.group, bar.system)
    rows = [row for row in result["rows"] if tuple(row[place] for place in places) == wanted]
    return [summary.number(row[bar.metric]) for row in rows if bar.metric in row]


def section(result: Result, pictures: Sequence[tuple[Path, str, str]]) -> str:
    """One run: command, pictures, tables, where baselines win, the chain in words, the sinks, times."""
    title, words = SECTIONS[kind_of(result)]
    lines = summary.table(result["rows"])
    parts = [f"## {title}\n", textwrap.fill(words, 120) + "\n", f"    {command(result)}\n"]
    parts += [f"![{seen}](images/{name})\n" for _, name, seen in pictures]
    notes = [f"- {scene}: {note}" for scene, note in result.get("notes", {}).items()]
    parts.append("\n".join(notes) + "\n" if notes else "")
    parts.append(summary.as_markdown(lines))
    parts.append(by_photo(result) + chain(lines) + sinks(result))
    parts.append("### Times and memory\n\n" + stages(result))
    return "\n".join(part for part in parts if part)


def command(result: Result) -> str:
    """The command that repeats the run, its files by name."""
    run, networks = result["run"], result["networks"]
    heads = [name for name in result["inputs"] if re.fullmatch(r"head-\d{3}", name)]
    files = ["DEV_FOLDER"] if kind_of(result) == "dev" else [name for name in result["inputs"] if name not in heads]
    words = ["flexavatar eval", *files]
    if heads:
        words += [f"--synthetic {len(heads)}", "--data FOLDER"]
    words += [
        f"--protocol {name}" for name in run["protocols"] if run["protocols"] != ["self", "cross", "completeness"]
    ]
    words += [f"--{name} {run[name]}" for name in ("frames", "steps", "sink", "seed")]
    for option, key in (("lpips", "lpips"), ("landmarks", "akd"), ("face-embedding", "csim")):
        file = networks[key].split(",")[0]
        if file.endswith(".onnx"):
            words.append(f"--{option} {file}")
    return " ".join(words)


def by_photo(result: Result) -> str:
    """Each photo by itself; "" for other runs."""
    rows = [row for row in result["rows"] if row["protocol"] == PORTRAITS and row["system"] in (ENCODED, FITTED)]
    keys = [
        key
        for key in ("psnr_matte", "lpips", "iou_head", "csim", "csim_wrong", "hidden_90", "hidden_135", "hidden_180")
        if any(key in row for row in rows)
    ]
    if not rows:
        return ""
    lines = []
    for row in rows:
        cells = ("n/a" if row.get(key) is None else f"{row[key]:.{METRICS[key].digits}f}" for key in keys)
        lines.append([row["scene"], row["system"], *cells])
    return "### Photo by photo\n\n" + table(["photo", "", *(METRICS[key].label for key in keys)], lines) + "\n"


def chain(lines: Sequence[summary.Line]) -> str:
    """From no network over one pass to fitting, in numbers."""
    told = []
    for (protocol, group), block in summary.blocks(lines).items():
        cells = {line["system"]: line["cells"] for line in block}
        for key in TOLD:
            values = [
                f"{cells[name][key].mean:.{METRICS[key].digits}f} ({name})"
                for name in CHAIN
                if name in cells and key in cells[name] and cells[name][key].mean == cells[name][key].mean
            ]
            if len(values) > 1:
                told.append(f"- {f'{protocol} {group}'.strip()}, {METRICS[key].label}: {', '.join(values)}")
    return "### From no network over one pass to fitting\n\n" + "\n".join(told) + "\n\n" if told else ""


def sinks(result: Result) -> str:
    """What the 3-D sink changes against the 2-D sink, view by view; "" where both did not run."""
    lines = []
    for change in summary.sink_effect(result["rows"], result["run"]["seed"]):
        if change.protocol != "novel view" or change.metric not in ("psnr", "psnr_matte", "lpips"):
            continue
        metric = METRICS[change.metric]
        before, after = (f"{value:.{metric.digits}f}" for value in (change.before, change.after))
        span = f"{change.low:+.{metric.digits}f} to {change.high:+.{metric.digits}f}"
        verdict = f"3-D {change.verdict}" if change.verdict else "no difference shown"
        lines.append([change.group, change.system, metric.label, before, after, span, verdict])
    if not lines:
        return ""
    head = ["side", "stage", "", "2-D sink", "3-D sink", "change, 95 %", ""]
    words = "Paired by view, bootstrap over views; the views of few heads speak of these heads.\n\n"
    return "### Bias sinks\n\n" + words + table(head, lines) + "\n"


def stages(result: Result) -> str:
    """What the run cost."""
    columns = ("times", "seconds", "cpu_seconds", "peak_mb")
    rows = [[name, *(f"{stage[key]:.0f}" for key in columns)] for name, stage in result["stages"].items()]
    words = "\nThe peak is of the process that holds all systems at once, not of one command.\n"
    return table(["stage", "times", "wall seconds", "CPU seconds", "peak MB"], rows) + words


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


if __name__ == "__main__":
    main()
