"""`flexavatar models`: what weights there are, where from, what their licences allow; get, verify, convert them."""

from pathlib import Path
from typing import Annotated

import typer

from flexavatar_cli.cli.parameters import Overwrite

Name = Annotated[str, typer.Argument(help="flex-1, dinov2, modnet, ...: see `models list`.")]
Accept = Annotated[bool, typer.Option("--accept-licence", help="You have read the licence and accept it.")]
Mirror = Annotated[str, typer.Option("--mirror", help="Fetch from MIRROR/NAME/FILE instead.")]
Offline = Annotated[bool, typer.Option("--offline", help="Use what is in the cache; never open a connection.")]


def show() -> None:
    """What can be used: is it here, where from, under which licence, what that allows."""
    from flexavatar_cli import weights
    from flexavatar_cli.cli.console import report
    from flexavatar_cli.core.paths import models_dir

    rows = [shipped(card) for card in sorted(models_dir().glob("*/*.yaml")) if card.name in ("model.yaml", "head.yaml")]
    known = weights.registry()
    rows = [row for row in rows if row["name"] not in known]
    for name, found in known.items():
        missing = [remote.file for remote in found.missing()]
        sources = {weights.source_of(found, remote.file) for remote in found.files} - {""}
        rows.append(
            {
                "name": name,
                "here": not missing,
                "missing": missing,
                "from": ", ".join(sorted(sources)) or found.origin,
                "licence": found.licence,
                "allows": found.allows,
                "folder": found.folder,
                "get": weights.how_to_get(name),
            }
        )
    rows.append(flame_row())
    lines = []
    for row in rows:
        lines.append(f"{'here' if row['here'] else '-':6}{row['name']:18}{row['licence']}: {row['allows']}")
        lines.append(f"{'':24}{row['from']}")
        if not row["here"]:
            lines.append(f"{'':24}get it: {row['get']}")
    report({"models": rows, "cache": weights.model_cache()}, "\n".join(lines))


def shipped(card: Path) -> dict[str, object]:
    """A row for a model or head that comes with the package."""
    import yaml

    content = yaml.safe_load(card.read_text(encoding="utf-8"))
    file = content.get("weights", content).get("file", "")
    return {
        "name": content.get("name", card.parent.name),
        "here": (card.parent / file).is_file(),
        "missing": [] if (card.parent / file).is_file() else [file],
        "from": "comes with flexavatar",
        "licence": content.get("licence", ""),
        "allows": "any use, with attribution" if content.get("licence") == "Apache-2.0" else "see its card",
        "folder": card.parent,
        "get": "clone the repository again",
    }


def flame_row() -> dict[str, object]:
    """A row for the user's FLAME file."""
    from flexavatar_cli.weights import FLAME_FILE, model_cache

    path = model_cache() / "flame" / FLAME_FILE
    return {
        "name": "flame",
        "here": path.is_file(),
        "missing": [] if path.is_file() else [FLAME_FILE],
        "from": "you: FLAME 2020 or 2023, from flame.is.tue.mpg.de after registration",
        "licence": "that of your FLAME file",
        "allows": "FLAME 2020: non-commercial scientific research; FLAME 2023 Open: CC BY 4.0",
        "folder": path.parent,
        "get": "flexavatar models add flame PATH (.pkl or .npz)",
    }


def pull(name: Name, accept_licence: Accept = False, mirror: Mirror = "", offline: Offline = False) -> None:
    """Fetch weights into the cache: interrupted downloads go on, checksums are verified or recorded."""
    from flexavatar_cli import weights
    from flexavatar_cli.cli.console import progress, report, say

    found = weights.entry(name)
    say(f"{name}: {found.title}; {found.licence}: {found.allows}")
    with progress("Fetching") as on_bytes:
        folder = weights.pull(name, accept_licence, mirror, offline, on_bytes)
    verdicts = weights.check(found)
    report(
        {
            "model": name,
            "folder": folder,
            "licence": found.licence,
            "sha256": {verdict.path.name: verdict.sha256 for verdict in verdicts},
        }
    )


def add(
    name: Annotated[str, typer.Argument(help="flame, or an entry of `models list` whose files you have.")],
    path: Annotated[Path, typer.Argument(help="The file, or the folder with the files.")],
) -> None:
    """Take over files you have: FLAME (.pkl or .npz), or those of an entry, e.g. a checkpoint fetched by hand."""
    from flexavatar_cli import weights
    from flexavatar_cli.cli.console import report
    from flexavatar_cli.core.errors import InputError

    if not path.exists():
        raise InputError(f"{path}: not there")
    if name == "flame":
        add_flame(path)
        return
    folder = weights.add(name, path)
    verdicts = weights.check(weights.entry(name))
    report(
        {
            "model": name,
            "folder": folder,
            "files": {verdict.path.name: verdict.detail for verdict in verdicts},
            "complete": all(verdict.good for verdict in verdicts),
        }
    )


def add_flame(path: Path) -> None:
    """Read the user's FLAME file, register the open head to it for its landmarks, and keep both in the cache."""
    from flexavatar_cli.cli.console import report, say
    from flexavatar_cli.heads import load_head
    from flexavatar_cli.heads.flame import load_flame, save_flame
    from flexavatar_cli.heads.flame_landmarks import with_landmarks
    from flexavatar_cli.weights import FLAME_FILE, model_cache

    head = load_flame(path)
    say(f"{path.name}: {len(head.template)} vertices, {head.shapes} shapes, {head.expressions} expressions")
    embedded, facts = with_landmarks(head, load_head())
    target = save_flame(embedded, model_cache() / "flame" / FLAME_FILE)
    report({"head": target, "vertices": len(head.template), **facts})


def verify(
    name: Annotated[str | None, typer.Argument(help="One entry; without it, all that are here.")] = None,
) -> None:
    """Hold files to their stated or recorded sha256; exit code 4 if one differs."""
    from flexavatar_cli import weights
    from flexavatar_cli.cli.console import report
    from flexavatar_cli.core.errors import WeightsError

    names = (
        [name]
        if name
        else [key for key, found in weights.registry().items() if any(p.is_file() for p in found.paths())]
    )
    verdicts = {key: weights.check(weights.entry(key)) for key in names}
    bad = [f"{v.path}: {v.detail}" for found in verdicts.values() for v in found if not v.good]
    lines = [
        f"{'ok' if v.good else 'BAD':5}{key:18}{v.path.name:24}{v.detail}" for key, f in verdicts.items() for v in f
    ]
    report(
        {
            "good": not bad,
            "files": {str(v.path): {"sha256": v.sha256, "detail": v.detail} for f in verdicts.values() for v in f},
        },
        "\n".join(lines) or "nothing fetched yet",
    )
    if bad:
        raise WeightsError("; ".join(bad))


def convert(
    source: Annotated[
        Path, typer.Argument(metavar="IN", help="The published checkpoint (.pt), or the folder with it.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="The model folder to write, for --model.")],
    template: Annotated[
        Path | None, typer.Option("--template", help="The head template (.obj); without it, the one beside IN.")
    ] = None,
    model: Annotated[str, typer.Option("--model", help="The model that the checkpoint is of.")] = "flex-1",
    overwrite: Overwrite = False,
) -> None:
    """Rewrite a published checkpoint as safetensors: a model folder that needs no pickle and loads faster."""
    from flexavatar_cli.cli.console import report
    from flexavatar_cli.cli.outputs import claim
    from flexavatar_cli.core.errors import InputError, UsageError, WeightsError
    from flexavatar_cli.model import convert_release
    from flexavatar_cli.model.config import read_card
    from flexavatar_cli.stages.instruments import model_folder
    from flexavatar_cli.weights import model_cache

    card = read_card(model_folder(model) / "model.yaml")
    if card.weights.layout != "release" or card.template is None:
        raise UsageError(f"--model {model}: not a published checkpoint; its weights are safetensors already")
    checkpoint = source / card.weights.file if source.is_dir() else source
    if not checkpoint.is_file():
        raise InputError(f"{checkpoint}: not there")
    places = (
        [template]
        if template
        else [folder / card.template.file for folder in (checkpoint.parent, model_cache() / model)]
    )
    surface = next((path for path in places if path.is_file()), None)
    if surface is None:
        raise WeightsError(f"{' and '.join(map(str, places))}: not there; name the head template with --template")
    written, unused = convert_release(checkpoint, surface, card, claim(output, overwrite))
    report(
        {
            "model": output,
            "weights": output / written.weights.file,
            "sha256": written.weights.sha256,
            "bytes": (output / written.weights.file).stat().st_size,
            "left_out": unused,
        },
        f"{output / written.weights.file}: {len(unused)} tensors without effect left out; use it with --model {output}",
    )


def register(app: typer.Typer) -> None:
    """Add the command and its verbs."""
    verbs = type(app)(help="Weights and head models: list, pull, add, verify, convert.", no_args_is_help=True)
    verbs.command("list")(show)
    for verb in (pull, add, verify, convert):
        verbs.command()(verb)
    app.add_typer(verbs, name="models")
