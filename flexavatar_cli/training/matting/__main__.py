"""`python -m flexavatar_cli.training.matting`: all before and after `flexavatar train models/matting/train.yaml`."""

import argparse
import json
import logging
from pathlib import Path

from flexavatar_cli.training.matting.cutouts import is_held_out, prepare_people
from flexavatar_cli.training.matting.export import export
from flexavatar_cli.training.matting.heads import prepare_heads
from flexavatar_cli.training.matting.measuring import comparison, flicker, limits, measure
from flexavatar_cli.training.matting.training import Trainer, read_config


def pack(arguments: argparse.Namespace) -> None:
    """Make the training pack, and the hold-out's heads below it."""
    from flexavatar_cli.stages.matting.nets import selfie

    prepare_people(arguments.data, arguments.segmenter, arguments.pack, selfie())
    prepare_heads(arguments.data, arguments.pack / "held_out" / "head", 60, True, is_held_out, 0)
    prepare_heads(arguments.data, arguments.pack / "head", arguments.heads, False, is_held_out, 0)


def ship(arguments: argparse.Namespace) -> None:
    """Export what a run holds."""
    export(Trainer(read_config(arguments.config), arguments.pack, arguments.output).average, arguments.onnx)


def evaluate(arguments: argparse.Namespace) -> None:
    """Measure nets on the hold-out, one JSON row per net and kind of person."""
    from flexavatar_cli.stages.matting.nets import modnet, portrait, selfie

    nets = {"selfie + guided filter": selfie()}
    for path in arguments.onnx:
        nets |= {f"{path.stem} alone": modnet(path), f"{path.stem} guided by selfie": portrait(path)}
    for row in measure(nets, arguments.pack):
        print(json.dumps(row))


def tremble(arguments: argparse.Namespace) -> None:
    """Flicker of a clip's mattes with the segmentation and with our net, one picture at a time and smoothed."""
    from flexavatar_cli.media.frames import open_frames
    from flexavatar_cli.stages.matting.nets import portrait, selfie

    frames = open_frames(arguments.clip)
    for net in (selfie(), portrait(arguments.onnx)):
        single, smooth = flicker(frames, net, smoothed=False), flicker(frames, net)
        print(json.dumps({"clip": arguments.clip.name, "net": net.name, "single": single, "smoothed": smooth}))


def edges(arguments: argparse.Namespace) -> None:
    """The edge error of avatars of held-out people with the segmentation's mattes, ours and the true ones."""
    from flexavatar_cli.media.images import sheet, write_image
    from flexavatar_cli.stages.instruments import load_instruments
    from flexavatar_cli.stages.matting.nets import portrait, selfie
    from flexavatar_cli.training.matting.edges import edge_errors, subjects

    instruments, pages = load_instruments(arguments.model), []
    for subject in subjects(arguments.pack, arguments.people):
        folder = arguments.output / subject.name.replace("/", "_")
        rows, tiles = edge_errors(subject, [selfie(), portrait(arguments.onnx)], instruments, folder, arguments.steps)
        pages.append(tiles)
        for row in rows:
            print(json.dumps(row), flush=True)
    write_image(arguments.output / "edges.png", sheet(pages))


def limit(arguments: argparse.Namespace) -> None:
    """What limits a net on the hold-out: rows by contrast, with the segmentation and with the truth told."""
    for row in limits(arguments.onnx, arguments.pack):
        print(json.dumps(row))


def compare(arguments: argparse.Namespace) -> None:
    """A sheet of photos with the segmentation's mattes and ours."""
    from flexavatar_cli.media.images import write_image
    from flexavatar_cli.stages.matting.nets import portrait, selfie

    write_image(arguments.sheet, comparison(arguments.photos, [selfie(), portrait(arguments.onnx)]))


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True)
    packing = commands.add_parser("pack")
    packing.add_argument("data", type=Path, help="folder with the portrait, head, hair and texture packs")
    packing.add_argument("segmenter", type=Path, help="sinet_portrait_320_softmax.onnx")
    packing.add_argument("pack", type=Path)
    packing.add_argument("--heads", type=int, default=1500)
    packing.set_defaults(run=pack)
    shipping = commands.add_parser("export")
    shipping.add_argument("config", type=Path)
    shipping.add_argument("pack", type=Path)
    shipping.add_argument("output", type=Path, help="folder of the run")
    shipping.add_argument("onnx", type=Path)
    shipping.set_defaults(run=ship)
    measuring = commands.add_parser("measure")
    measuring.add_argument("pack", type=Path)
    measuring.add_argument("onnx", type=Path, nargs="*")
    measuring.set_defaults(run=evaluate)
    trembling = commands.add_parser("flicker")
    trembling.add_argument("onnx", type=Path)
    trembling.add_argument("clip", type=Path)
    trembling.set_defaults(run=tremble)
    edging = commands.add_parser("edges")
    edging.add_argument("pack", type=Path)
    edging.add_argument("onnx", type=Path)
    edging.add_argument("output", type=Path, help="folder to work in")
    edging.add_argument("people", nargs="+", help="kind/number, such as head/3 or cutout/5")
    edging.add_argument("--steps", type=int, default=50)
    edging.add_argument("--model", default="open-1")
    edging.set_defaults(run=edges)
    limiting = commands.add_parser("limits")
    limiting.add_argument("pack", type=Path)
    limiting.add_argument("onnx", type=Path)
    limiting.set_defaults(run=limit)
    comparing = commands.add_parser("sheet")
    comparing.add_argument("onnx", type=Path)
    comparing.add_argument("sheet", type=Path, help="picture to write")
    comparing.add_argument("photos", type=Path, nargs="+")
    comparing.set_defaults(run=compare)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    arguments.run(arguments)


if __name__ == "__main__":
    main()
