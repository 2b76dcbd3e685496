"""`flexavatar train`: train a network from a configuration."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from flexavatar_cli.cli.parameters import Device
from flexavatar_cli.core.options import CommonOptions

SAID_EVERY = 30.0  # seconds between lines of talk, where there is no terminal for a table
RECENT = 0.98  # of the running mean, that stays per step


def train(
    config: Annotated[
        Path, typer.Argument(help="A train.yaml, e.g. models/open-1/train.yaml or models/matting/train.yaml.")
    ],
    data: Annotated[Path, typer.Option(help="A folder made by `flexavatar prepare` (of the matting net: a pack).")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Run folder; a run that was cut goes on from it.")],
    lpips: Annotated[
        Path | None, typer.Option(help="LPIPS with a SqueezeNet backbone (ONNX), for rendered phases.")
    ] = None,
    show_data: Annotated[
        bool, typer.Option("--show-data", help="Only write OUTPUT/data.png: what the network is fed.")
    ] = False,
    evaluate_only: Annotated[bool, typer.Option("--evaluate", help="Only measure what the run folder holds.")] = False,
    device: Device = CommonOptions.device,
) -> None:
    """Train the network of CONFIG; checkpoints and the averaged weights go to the run folder.

    Under `torchrun --nproc-per-node=N --no-python flexavatar train ...` N processes share each batch.
    """
    from flexavatar_cli.cli.console import report, say
    from flexavatar_cli.media.images import write_png
    from flexavatar_cli.training.config import is_for_matting, network_card, read_config
    from flexavatar_cli.training.engine import Trainer
    from flexavatar_cli.training.matting.training import train as train_matting
    from flexavatar_cli.training.measure import describe, evaluate
    from flexavatar_cli.training.run_log import RunLog

    if is_for_matting(config):
        report(train_matting(config, data, output, say))
        return
    settings = read_config(config)
    card = network_card(settings)
    trainer = Trainer(settings, card, data, output, lpips, device)
    if show_data:
        report({"sheet": write_png(output / "data.png", trainer.fed_sheet())})
        return
    first, step = trainer.fabric.is_global_zero, trainer.position.step
    if first and not evaluate_only:
        views = len(trainer.pack.views["seen"])
        say(f"training {card.name} on {views} views, seed {settings.seed}, from step {step}")
        with RunLog(output, step) as log, live_table() as show:

            def on_step(step: int, terms: dict[str, float]) -> None:
                log(step, terms)
                show(step, terms)

            trainer.run(on_step)
    elif not evaluate_only:
        trainer.run()
    trainer.save()
    model = trainer.averaged()
    if first:
        metrics = evaluate(trainer, model)
        (output / "facts.json").write_text(describe(trainer, metrics))
        report({"run": output, "steps": trainer.position.step, **metrics})


@contextmanager
def live_table() -> Iterator[Callable[[int, dict[str, float]], None]]:
    """What to call with each step: on a terminal a table of the terms and their running means, else a line at times."""
    from flexavatar_cli.cli.console import say, settings

    means: dict[str, float] = {}
    said = 0.0

    def mean(terms: dict[str, float]) -> None:
        for name, value in terms.items():
            means[name] = value + RECENT * (means.get(name, value) - value)

    def line(step: int, terms: dict[str, float]) -> None:
        nonlocal said
        mean(terms)
        if time.monotonic() - said > SAID_EVERY:
            said = time.monotonic()
            say(f"step {step}: " + ", ".join(f"{name} {means[name]:.4f}" for name in terms if name != "rate"))

    if settings.quiet or not sys.stderr.isatty():
        yield line
        return

    from rich.console import Console
    from rich.live import Live
    from rich.table import Table

    with Live(console=Console(stderr=True), refresh_per_second=2) as live:

        def table(step: int, terms: dict[str, float]) -> None:
            mean(terms)
            shown = Table("term", "now", "mean", title=f"step {step}")
            for name, value in terms.items():
                shown.add_row(name, f"{value:.5g}", f"{means[name]:.5g}")
            live.update(shown)

        yield table


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(train)
