"""`flexavatar train`: train a network from a configuration."""

from pathlib import Path
from typing import Annotated

import typer


def train(
    config: Annotated[Path, typer.Argument(help="A train.yaml, e.g. models/open-1/train.yaml.")],
    data: Annotated[Path, typer.Option(help="A folder made by `flexavatar prepare`.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Run folder; a run that was cut goes on from it.")],
    evaluate_only: Annotated[bool, typer.Option("--evaluate", help="Only measure what the run folder holds.")] = False,
) -> None:
    """Train the network of CONFIG; checkpoints and the averaged weights go to the run folder."""
    import json

    from flexavatar_cli.cli.console import report, say
    from flexavatar_cli.model.config import read_card
    from flexavatar_cli.training import stage1

    settings = stage1.read_config(config)
    card = read_card(Path(settings.model) / "model.yaml")
    trainer = stage1.Trainer(settings, card, data, output)
    views = len(trainer.pack.views["seen"])
    say(f"training {card.name} on {views} views, seed {settings.seed}, from step {trainer.step}")

    def on_step(step: int, terms: dict[str, float]) -> None:
        with open(output / "log.jsonl", "a", encoding="utf-8") as stream:
            stream.write(json.dumps({"step": step} | {name: round(value, 6) for name, value in terms.items()}) + "\n")
        if step % 25 == 0:
            shown = ", ".join(f"{name} {value:.4f}" for name, value in terms.items() if name != "rate")
            say(f"step {step}: {shown}")

    if not evaluate_only:
        trainer.run(on_step)
    trainer.save()
    metrics = stage1.evaluate(trainer.averaged(), trainer.head, trainer.pack)
    (output / "facts.json").write_text(stage1.describe(settings, trainer.pack, trainer, metrics))
    report({"run": output, "steps": trainer.step, **metrics})


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(train)
