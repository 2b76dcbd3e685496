"""`flexavatar track`: photo, film or folder of frames to a track file."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flexavatar_cli.cli.parameters import Face, Fov, Output, Overwrite
from flexavatar_cli.core.options import TrackOptions

if TYPE_CHECKING:
    from flexavatar_cli.heads.flame import FlameHead

Overlay = Annotated[
    Path | None, typer.Option("--overlay", help="Also draw the tracked head over the frames: .png, .mp4 or a folder.")
]
Head = Annotated[str, typer.Option("--head", help="open-head, or flame: the one added with `models add flame`.")]
FrameFiles = Annotated[
    Path | None, typer.Option("--frames", help="With --head flame: also write published .frame files to this folder.")
]
Smoothing = Annotated[float, typer.Option("--smoothing", min=0, help="Sigma of the smoothing in time, frames.")]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(track)


def track(
    source: Path,
    output: Output = None,
    overlay: Overlay = None,
    head_name: Head = "open-head",
    frame_folder: FrameFiles = None,
    fov: Fov = None,
    face: Face = TrackOptions.face,
    smoothing: Smoothing = TrackOptions.smoothing,
    overwrite: Overwrite = False,
) -> None:
    """Find the head's pose and expression in each frame and the person's shape: a .track.npz."""
    import numpy as np

    from flexavatar_cli.cli.console import progress, report
    from flexavatar_cli.cli.outputs import claim_film, name_output, output_path
    from flexavatar_cli.core.errors import UsageError
    from flexavatar_cli.heads import load_head
    from flexavatar_cli.media.frames import open_frames
    from flexavatar_cli.media.video import write_video
    from flexavatar_cli.stages import tracking
    from flexavatar_cli.stages.published import save_tracked
    from flexavatar_cli.stages.tracking.flame import track_flame
    from flexavatar_cli.stages.tracking.overlay import overlays

    frames = open_frames(source)
    target = output_path(output, source, ".track.npz", overwrite)
    suffix = ".overlay.png" if frames.kind == "photo" else ".overlay.mp4"
    drawing = None if overlay is None else claim_film(name_output(overlay, source, suffix), overwrite, len(frames) == 1)
    flame = chosen_flame(head_name)
    if frame_folder is not None and flame is None:
        raise UsageError("--frames: .frame files hold FLAME codes; pass --head flame")
    folder = None if frame_folder is None else output_path(frame_folder, source, "", overwrite)
    head = load_head()
    options = TrackOptions(face=face, smoothing=smoothing)
    with progress("Tracking") as on_step:
        seen = tracking.track(frames, options, fov, frames.focal_px, on_step, frames.fps, head)
    result = seen
    if flame is not None:
        with progress("FLAME") as on_step:
            result = track_flame(seen, flame, options.smoothing, on_step)
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
    if folder is not None:
        summary["frame_files"] = save_tracked(result, folder)
    if drawing is not None:
        with progress("Drawing", len(frames)) as on_step:
            summary["overlay"] = write_video(drawing, overlays(frames, seen, head), frames.fps, on_step, len(frames))
    report(summary)


def chosen_flame(name: str) -> "FlameHead | None":
    """The user's FLAME head if `name` asks for it, None for the open head. Raises UsageError or WeightsError."""
    from flexavatar_cli.core.errors import UsageError, WeightsError
    from flexavatar_cli.stages.instruments import installed_flame

    if name not in ("open-head", "flame"):
        raise UsageError(f"--head {name}: open-head or flame")
    head = installed_flame() if name == "flame" else None
    if name == "flame" and head is None:
        raise WeightsError(
            "--head flame: no FLAME head here; get FLAME 2020 or 2023 from flame.is.tue.mpg.de and run: "
            "flexavatar models add flame PATH"
        )
    return head
