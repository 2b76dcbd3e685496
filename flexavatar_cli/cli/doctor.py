import typer


def register(app: typer.Typer) -> None:
    @app.command()
    def doctor() -> None:
        """TODO"""
