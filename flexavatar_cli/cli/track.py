"""`flexavatar track`: photo, film or folder of frames to a track file."""

from pathlib import Path
from typing import Annotated

import typer

from flexavatar_cli.cli.parameters import Face, Fov, Output, Overwrite
from flexavatar_cli.core.options import TrackOptions

Overlay = Annotated[
    Path | None, typer.Option("--overlay", help="Also draw the tracked head over the frames: .png, .mp4 or a folder.")
]
Smoothing = Annotated[float, typer.Option("--smoothing", min=0, help="Sigma of the smoothing in time, frames.")]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(track)


def track(
    source: Path,
    output: Output = None,
    overlay: Overlay = None,
    fov: Fov = None,
    face: Face = TrackOptions.face,
    smoothing: Smoothing = TrackOptions.smoothing,
    overwrite: Overwrite = False,
) -> None:
    """Find the head's pose and expression in each frame and the person's shape: a .track.npz."""
    import numpy as np

    from flexavatar_cli.cli.console import progress, report
    from flexavatar_cli.cli.outputs import output_path
    from flexavatar_cli.heads import load_head
    from flexavatar_cli.media.frames import open_frames
    from flexavatar_cli.media.video import write_video
    from flexavatar_cli.stages import tracking
    from flexavatar_cli.stages.tracking.overlay import overlays

    frames = open_frames(source)
    target = output_path(output, source, ".track.npz", overwrite)
    suffix = ".overlay.png" if frames.kind == "photo" else ".overlay.mp4"
    drawing = None if overlay is None else output_path(overlay, source, suffix, overwrite)
    head = load_head()
    options = TrackOptions(face=face, smoothing=smoothing)
    with progress("Tracking") as on_step:
        result = tracking.track(frames, options, fov, frames.focal_px, on_step, frames.fps, head)
    summary: dict[str, object] = {
        "track": result.save(target),
        "frames": len(result),
        "missing_frames": np.flatnonzero(result.confidence == 0),
        "reprojection_px": float(result.reprojection_px.mean()),
        "reprojection_percent": 100 * tracking.relative_error(result),
        "confidence": float(result.confidence.mean()),
        "focal_px": float(result.intrinsics[0, 0, 0]),
        "head_model": result.head_model,
    }
    if drawing is not None:
        with progress("Drawing", len(frames)) as on_step:
            summary["overlay"] = write_video(drawing, overlays(frames, result, head), frames.fps, on_step, len(frames))
    report(summary)
