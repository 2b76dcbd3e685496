"""`flexavatar doctor`: what this machine can do, and what to do about what it cannot."""

import importlib.metadata
import importlib.util
import os
import platform
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import typer

from flexavatar_cli.core.errors import FlexAvatarError, WeightsError
from flexavatar_cli.core.options import CommonOptions

PACKAGES = ("torch", "numpy", "mediapipe", "onnxruntime", "opencv-contrib-python", "numba", "safetensors")
PUBLISHED = "flex-1"  # optional: the user's own download
CLONE_AGAIN = "comes with the repository: clone it again, or `git checkout -- models`"


@dataclass(frozen=True)
class Finding:
    """One thing looked at."""

    subject: str
    good: bool
    detail: str
    needed: bool = True  # False: something works without it
    advice: str = ""  # what to do if it is missing


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(doctor)


def doctor() -> None:
    """Look at Python, packages, cores, GPU, ffmpeg, weights and head model; say what to do about what is missing."""
    from flexavatar_cli.cli.console import report

    findings = [finding for check in CHECKS for finding in check()]
    missing = [finding.subject for finding in findings if finding.needed and not finding.good]
    report({"ready": not missing, "findings": [asdict(finding) for finding in findings]}, as_text(findings))
    if missing:
        raise WeightsError(f"not ready: {', '.join(missing)}")


def as_text(findings: list[Finding]) -> str:
    """One line per finding, with the advice under what is missing."""
    lines = []
    for finding in findings:
        sign = "ok" if finding.good else "MISSING" if finding.needed else "-"
        lines.append(f"{sign:8}{finding.subject:28} {finding.detail}")
        if not finding.good and finding.advice:
            lines.append(f"{'':37}{finding.advice}")
    return "\n".join(lines)


def python() -> list[Finding]:
    """Interpreter and machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    advice = "mediapipe 0.10.21 is known to work with Python 3.11"
    return [
        Finding("python", sys.version_info[:2] == (3, 11), platform.python_version(), advice=advice),
        Finding("machine", True, f"{cores} cores, {platform.system()} {platform.machine()}"),
    ]


def packages() -> list[Finding]:
    """Versions of what the commands import."""
    findings = []
    for name in PACKAGES:
        try:
            findings.append(Finding(name, True, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            advice = "run `make setup`, or `pip install -e . -c constraints.txt`"
            findings.append(Finding(name, False, "not installed", advice=advice))
    return findings


def gpu() -> list[Finding]:
    """CUDA and gsplat."""
    if importlib.util.find_spec("torch") is None:
        return []
    import torch

    cuda = torch.cuda.is_available()
    name = torch.cuda.get_device_name(0) if cuda else "none; everything runs on the CPU"
    gsplat = importlib.util.find_spec("gsplat") is not None
    advice = "pip install -e '.[cuda]'" if cuda else "only of use with CUDA"
    return [
        Finding("cuda", cuda, name, needed=False),
        Finding("gsplat", gsplat, "installed" if gsplat else "not installed", needed=False, advice=advice),
    ]


def ffmpeg() -> list[Finding]:
    """The program that reads and writes video."""
    from flexavatar_cli.media.video import ffmpeg as find

    return [attempt("ffmpeg", find, "pip install --force-reinstall imageio-ffmpeg")]


def models() -> list[Finding]:
    """The shipped network and head model, and the published one if it was fetched."""
    from flexavatar_cli.core.paths import models_dir

    try:
        folder = models_dir()
    except WeightsError as error:
        return [Finding("models", False, str(error))]
    cards = sorted(folder.glob("*/model.yaml")) + sorted(folder.glob("*/head.yaml"))
    cards = [card for card in cards if card.parent.name != PUBLISHED]  # see `published`
    findings = [weights(card, needed=card.parent.name in (CommonOptions.model, "open-head")) for card in cards]
    for name in (CommonOptions.model, "open-head"):
        if name not in [card.parent.name for card in cards]:
            findings.append(Finding(name, False, f"{folder / name} is not there", advice=CLONE_AGAIN))
    return findings


def published() -> list[Finding]:
    """Each thing that the published model needs and this machine has or lacks, with the command that brings it."""
    from flexavatar_cli import weights as store
    from flexavatar_cli.stages.image_features import ENTRY, INSTALL
    from flexavatar_cli.stages.perceptual import NAMES

    networks = {"DINOv2": ENTRY} | {f"{term} loss": name for term, name in NAMES.items()}
    try:
        entry, known = store.entry(PUBLISHED), store.check(store.entry(PUBLISHED))
        checked = {subject: store.check(store.entry(name)) for subject, name in networks.items()}
    except FlexAvatarError as error:
        return [Finding(PUBLISHED, False, str(error), needed=False, advice=CLONE_AGAIN)]
    get = store.how_to_get(PUBLISHED)
    findings = [
        Finding(f"{PUBLISHED} {verdict.path.name}", verdict.good, f"{verdict.detail}  {verdict.path}", False,
                f"{entry.licence}; from {entry.origin}; then: {get}")
        for verdict in known
    ]  # fmt: skip
    flame = store.model_cache() / "flame" / store.FLAME_FILE
    advice = "register at flame.is.tue.mpg.de, download FLAME 2020 or 2023, then: flexavatar models add flame PATH"
    found = flame.is_file()
    detail = str(flame) if found else f"not there  {flame}"
    findings.append(Finding(f"{PUBLISHED} FLAME", found, detail, needed=False, advice=advice))
    for subject, files in checked.items():
        bad = [verdict for verdict in files if not verdict.good]
        detail = "; ".join(f"{verdict.path.name} {verdict.detail}" for verdict in bad) or str(files[0].path.parent)
        get = store.how_to_get(networks[subject])
        findings.append(Finding(f"{PUBLISHED} {subject}", not bad, detail, needed=False, advice=get))
    library = importlib.util.find_spec("transformers") is not None
    detail = importlib.metadata.version("transformers") if library else "not installed"
    findings.append(Finding(f"{PUBLISHED} transformers", library, detail, needed=False, advice=INSTALL))
    return findings


def weights(card: Path, needed: bool) -> Finding:
    """Whether the weights that a model card names are there and are those that it states."""
    import yaml

    from flexavatar_cli.core.files import digest_file

    try:
        content = yaml.safe_load(card.read_text())
        entry = content.get("weights", content)
        path, stated = card.with_name(entry["file"]), entry.get("sha256", "")
    except (yaml.YAMLError, KeyError, TypeError, AttributeError, UnicodeDecodeError):
        return Finding(card.parent.name, False, f"{card} is damaged", needed, CLONE_AGAIN)
    advice = CLONE_AGAIN if needed else "optional; see README, weights and licences"
    if not path.is_file():
        return Finding(card.parent.name, False, f"{path} is not there", needed, advice)
    digest = digest_file(path)
    if stated and digest != stated:
        return Finding(
            card.parent.name, False, f"{path} is damaged: sha256 {digest[:16]}, not {stated[:16]}", needed, advice
        )
    return Finding(card.parent.name, True, f"sha256 {digest[:16]}  {path}", needed)


def matting() -> list[Finding]:
    """The default matting net, opened."""
    from flexavatar_cli.stages.matting.nets import open_net

    return [attempt("matting", lambda: open_net().name, "run `make setup` again: mediapipe's wheel carries the net")]


def attempt(subject: str, look: Callable[[], str], advice: str) -> Finding:
    """What `look` returns, or the family error it raises."""
    try:
        return Finding(subject, True, look())
    except (FlexAvatarError, ImportError) as error:
        return Finding(subject, False, str(error), advice=advice)


CHECKS = (python, packages, gpu, ffmpeg, models, matting, published)
