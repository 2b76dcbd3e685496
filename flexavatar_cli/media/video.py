"""Video in and out through the ffmpeg of imageio-ffmpeg: streamed, one frame in memory, same bytes every time."""

import itertools
import logging
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from flexavatar_cli.core.errors import BackendError, InputError, UsageError
from flexavatar_cli.core.files import replacing
from flexavatar_cli.media.images import LARGEST_PIXELS, require_content, to_float, to_uint8, write_png

log = logging.getLogger(__name__)

# Containers that hold one film. Others are refused: playlists name other files, and ffmpeg takes any text for ANSI art.
CONTAINERS = "mov,matroska,avi,gif,mpegts,mpeg,mpegvideo,ogg,flv,asf,h264,hevc,ivf,nut,mxf"
STANDARD_RATES = [Fraction(n, 1001) for n in (24000, 30000, 60000, 120000)]
STANDARD_RATES += [Fraction(n) for n in (10, 12, 15, 20, 24, 25, 30, 48, 50, 60, 90, 100, 120)]
SQUARE_PIXELS = "scale=trunc(iw*sar+0.5):ih,setsar=1"
EXACT_COLOURS = "accurate_rnd+full_chroma_int+full_chroma_inp+bitexact+bicubic"
FILMS = (".mp4", ".webm", ".mov")  # x264, VP9, ProRes 4444; the last two hold transparency
LAYOUTS = {1: "gray", 3: "rgb24", 4: "rgba"}  # ffmpeg's names by channels
DISCARDED, CORRUPT = 4, 2  # ffmpeg's packet flags


@dataclass(frozen=True)
class Film:
    """What is known of a video before it is decoded; T frames at a constant rate."""

    path: Path
    width: int  # upright (rotation tag applied), square pixels
    height: int
    fps: float
    source_index: np.ndarray  # [T] int, the stored frame shown at output frame t; 0, 1, 2, ... at a constant rate

    def __len__(self) -> int:
        return len(self.source_index)


def ffmpeg() -> str:
    """The ffmpeg program. Raises BackendError if there is none."""
    import imageio_ffmpeg

    try:
        return imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError as error:
        raise BackendError("no ffmpeg on this machine; reinstall imageio-ffmpeg") from error


def input_arguments(path: Path) -> list[str]:
    """Arguments that open `path` as one local film and nothing else."""
    return [*"-nostdin -protocol_whitelist file,pipe -format_whitelist".split(), CONTAINERS, "-i", f"file:{path}"]


def timestamps(path: Path, *codec: str) -> tuple[np.ndarray, Fraction, tuple[int, int], str]:
    """Presentation times [T] in ticks and in order, the tick in seconds, the size, and what ffmpeg said.

    With `-c copy` packets are read and nothing is decoded. Raises InputError if there is no film in the file.
    """
    command = [ffmpeg(), "-hide_banner", *input_arguments(path), "-map", "0:v:0", *codec, "-f", "framecrc", "-"]
    done = subprocess.run(command, capture_output=True, check=False)
    listing, talk = done.stdout.decode("utf8", "replace"), done.stderr.decode("utf8", "replace")
    tick = re.search(r"^#tb 0: (\d+)/(\d+)$", listing, re.MULTILINE)
    size = re.search(r"^#dimensions 0: (\d+)x(\d+)$", listing, re.MULTILINE)
    times = []
    for row in re.finditer(r"^0,\s*\S+,\s*(\S+),.*$", listing, re.MULTILINE):
        flags = re.search(r"F=0x(\w+)", row[0])
        if not (flags and int(flags[1], 16) & (DISCARDED | CORRUPT)) and row[1].lstrip("-").isdigit():
            times.append(int(row[1]))
    if tick is None or size is None or not times:
        raise InputError(f"{path}: neither a photo nor a video that can be read ({reason(talk)})")
    return np.sort(np.array(times)), Fraction(int(tick[1]), int(tick[2])), (int(size[1]), int(size[2])), talk


def reason(talk: str) -> str:
    """The most telling line of ffmpeg's complaints."""
    lines = [re.sub(r"^(\[[^]]*\]\s*)+", "", line).strip() for line in talk.splitlines()]
    for pattern in ("moov atom", "Invalid data", "does not contain", "matches no streams", "Not whitelisted", "rror"):
        for line in lines:
            if pattern in line:
                return re.sub(r"\s*\S*file:\S+", "", line).rstrip(".: ")
    return "no picture in it"


def probe(path: Path) -> Film:
    """Size, rate and number of frames of the video at `path`, without decoding it where it is whole.

    A variable frame rate becomes the constant one of the median interval. A film that ends early is read as far
    as it goes, with a warning. Raises InputError.
    """
    require_content(path)
    _, _, (width, height), _ = timestamps(path, "-vf", SQUARE_PIXELS, "-frames:v", "1")
    if width * height > LARGEST_PIXELS:
        raise InputError(
            f"{path}: {width} x {height} pixels are over the limit of {LARGEST_PIXELS // 10**6} megapixels"
        )
    times, tick, _, talk = timestamps(path, "-c", "copy")
    if "partial file" in talk or ends_early(times, tick, talk) or len(np.unique(times)) < len(times):
        times, tick, _, _ = timestamps(path, "-vf", "scale=16:16", "-fps_mode", "passthrough")
        if "partial file" in talk or ends_early(times, tick, talk):
            log.warning("%s: the film ends early, %d frames can be read", path, len(times))
    fps, source_index = constant_rate(times, tick, stated_rate(talk, "fps"), stated_rate(talk, "tbr"))
    if len(source_index) > 10 * len(times) + 1000:
        raise InputError(f"{path}: the film's timestamps make no sense ({len(times)} frames over {len(source_index)})")
    if not np.array_equal(source_index, np.arange(len(times))):
        log.info("%s: variable frame rate, read as %d frames at %.4g fps", path, len(source_index), float(fps))
    return Film(Path(path), width, height, float(fps), source_index)


def ends_early(times: np.ndarray, tick: Fraction, talk: str) -> bool:
    """Whether frames at `times` [T] leave more than two intervals of the duration that the file states uncovered."""
    stated = re.search(r"Duration: (\d+):(\d+):([\d.]+), start: (-?[\d.]+)", talk)
    if stated is None or len(times) < 2:
        return False
    duration = int(stated[1]) * 3600 + int(stated[2]) * 60 + float(stated[3])
    interval = float(times[-1] - times[0]) / (len(times) - 1) * float(tick)
    return duration > (len(times) + 2) * interval + 0.1


def stated_rate(talk: str, word: str) -> Fraction:
    """The rate that ffmpeg prints before `word` ("fps" on average, "tbr" its guess of the intended one), else 25."""
    stated = re.search(rf"Video:.*?, ([\d.]+)(k?) {word}", talk)
    rate = Fraction(stated[1]) * (1000 if stated[2] else 1) if stated else Fraction(0)
    return snapped(rate, Fraction(1, 1000)) if rate > 0 else Fraction(25)


def snapped(rate: Fraction, tolerance: Fraction) -> Fraction:
    """The standard frame rate within the relative `tolerance` of `rate`, the nearest if several, else `rate`."""
    best = min(STANDARD_RATES, key=lambda standard: abs(standard - rate))
    return best if abs(best - rate) <= tolerance * rate else rate.limit_denominator(1001)


def constant_rate(
    times: np.ndarray, tick: Fraction, stated: Fraction, intended: Fraction
) -> tuple[Fraction, np.ndarray]:
    """A constant rate for frames at `times` [T] ticks, and which stored frame is shown at each of its frames.

    Every frame once where none is more than half an interval off an even grid; otherwise, at each instant of the
    grid, the frame that a player would show.
    """
    count = len(times)
    if count == 1:
        return stated, np.zeros(1, int)
    even = (times[-1] - times[0]) / (count - 1)
    grid = times[0] + even * np.arange(count)
    if even > 0 and np.abs(times - grid).max() < 0.5 * even:
        measured = 1 / (Fraction(int(times[-1] - times[0]), count - 1) * tick)
        slack = Fraction(2, int(times[-1] - times[0])) + Fraction(1, 10_000)  # both ends rounded to ticks
        return (stated if abs(stated - measured) <= slack * measured else snapped(measured, slack)), np.arange(count)
    interval = float(np.median(np.diff(times))) or 1.0
    median = Fraction(1 / (interval * float(tick)))
    rate = intended if abs(intended - median) < median / 50 else snapped(median, Fraction(1, 50))
    rate = min(rate, Fraction(60))
    step = float(1 / (rate * tick))
    shown = times[0] + step * np.arange(round(float(times[-1] - times[0]) / step) + 1)
    return rate, np.searchsorted(times, shown + 0.25 * step, side="right") - 1


def read(film: Film, wanted: Iterable[int] | None = None) -> Iterator[np.ndarray]:
    """The frames [H, W, 3] float32 of `film` in order, or the `wanted` ones (ascending). Raises InputError."""
    numbers = list(range(len(film)) if wanted is None else wanted)
    if not numbers:
        return
    if numbers != sorted(numbers) or not 0 <= numbers[0] <= numbers[-1] < len(film):
        raise ValueError("frame numbers must ascend and lie in the film")
    command = [ffmpeg(), "-v", "error", *input_arguments(film.path), "-map", "0:v:0", "-vf", SQUARE_PIXELS]
    command += ["-sws_flags", EXACT_COLOURS, "-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    size = film.width * film.height * 3
    with tempfile.TemporaryFile() as talk, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=talk) as process:
        assert process.stdout is not None
        try:
            at, frame = -1, b""
            for number in numbers:
                while at < film.source_index[number]:
                    frame = process.stdout.read(size)
                    at += 1
                    if len(frame) < size:
                        talk.seek(0)
                        detail = reason(talk.read().decode("utf8", "replace"))
                        raise InputError(f"{film.path}: only {at} frames can be decoded ({detail})")
                yield to_float(np.frombuffer(frame, np.uint8).reshape(film.height, film.width, 3))
        finally:
            process.kill()


def write_video(
    path: Path | str,
    frames: Iterable[np.ndarray],  # each [H, W], [H, W, 3] or [H, W, 4] float in 0..1
    fps: float,
    on_step: Callable[[int, int], None] | None = None,
    total: int = 0,
) -> Path:
    """The path written: one of FILMS, one `.png`, or a folder of numbered PNGs, as the name and the count ask.

    Many frames under a `.png` name become a folder without the suffix. The file appears when it is complete.
    Raises UsageError for names and transparency that do not go together, InputError if nothing can be written.
    """
    stream = counted(iter(frames), on_step, total)
    first = next(stream, None)
    if first is None:
        raise InputError(f"{path}: no frames to write")
    suffix = Path(path).suffix.lower()
    if str(path).endswith("/") or suffix == "" or Path(path).is_dir():
        return write_folder(Path(path), itertools.chain([first], stream))
    if suffix == ".png":
        second = next(stream, None)
        if second is None:
            return write_png(Path(path), first)
        return write_folder(Path(path).with_suffix(""), itertools.chain([first, second], stream))
    if suffix not in FILMS:
        raise UsageError(f"{path}: write .mp4, .webm, .mov, .png or a folder")
    channels = first.shape[2] if first.ndim == 3 else 1
    if suffix == ".mp4" and channels == 4:
        raise UsageError(f"{path}: mp4 holds no transparency; write .webm, .mov, .png or a folder")
    return encode(Path(path), itertools.chain([first], stream), fps, (*first.shape[:2], channels))


def counted(
    frames: Iterator[np.ndarray], on_step: Callable[[int, int], None] | None, total: int
) -> Iterator[np.ndarray]:
    """The same frames, reported one by one."""
    for number, frame in enumerate(frames, 1):
        yield frame
        if on_step is not None:
            on_step(number, total)


def write_folder(path: Path, frames: Iterable[np.ndarray]) -> Path:
    """Write numbered PNGs. A folder that is there is replaced only if it holds nothing but such PNGs."""
    if path.is_dir() and not all(re.fullmatch(r"\d{6}\.png", entry.name) for entry in path.iterdir()):
        raise InputError(f"{path}: the folder holds other files; choose a new one")
    with replacing(path) as temporary:
        temporary.mkdir()
        for number, frame in enumerate(frames):
            write_png(temporary / f"{number:06d}.png", frame)
    return path


def encoder_arguments(suffix: str, shape: tuple[int, ...]) -> list[str]:
    """Codec and quality: nearly lossless, single-threaded, no encoder tags, so that bytes repeat."""
    height, width, channels = shape
    if suffix == ".webm":
        layout = "yuva420p" if channels == 4 else "yuv420p"
        codec = "-c:v libvpx-vp9 -crf 18 -b:v 0 -deadline good -cpu-used 4 -row-mt 0 -auto-alt-ref 0"
    elif suffix == ".mov":  # 10 bits of colour, alpha exact
        layout = "yuva444p10le" if channels == 4 else "yuv444p10le"
        codec = "-c:v prores_ks -profile:v 4444 -vendor apl0 -alpha_bits 16"
    else:
        layout = "yuv420p" if width % 2 == height % 2 == 0 else "yuv444p"  # only 4:4:4 can have odd sizes
        codec = "-c:v libx264 -preset fast -crf 14 -movflags +faststart"
    colours = "-colorspace bt709 -color_primaries bt709 -color_trc bt709 -color_range tv"
    return f"{codec} {colours} -pix_fmt {layout} -threads 1 -flags:v +bitexact".split()


def encode(path: Path, frames: Iterable[np.ndarray], fps: float, shape: tuple[int, ...]) -> Path:
    """Stream `frames` of one `shape` through ffmpeg into `path`, beside and renamed."""
    height, width, channels = shape
    rate = Fraction(fps).limit_denominator(1001)
    raw = f"-f rawvideo -pix_fmt {LAYOUTS[channels]} -s {width}x{height} -r {rate} -i -"
    matrix = f"scale=out_color_matrix=bt709:out_range=tv:flags={EXACT_COLOURS}"
    clean = "-map_metadata -1 -fflags +bitexact -threads 1"
    with replacing(path) as temporary, tempfile.TemporaryFile() as talk:
        target = [*encoder_arguments(path.suffix.lower(), shape), *clean.split(), f"file:{temporary}"]
        command = [ffmpeg(), "-v", "error", "-y", "-filter_threads", "1", *raw.split(), "-vf", matrix, *target]
        path.parent.mkdir(parents=True, exist_ok=True)
        with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=talk, stdout=subprocess.DEVNULL) as process:
            assert process.stdin is not None
            try:
                for frame in frames:
                    if frame.size != height * width * channels:
                        raise ValueError(f"frames must keep one shape, {frame.shape} after {shape}")
                    process.stdin.write(to_uint8(frame).tobytes())
                process.stdin.close()
            except BrokenPipeError:
                pass  # ffmpeg gave up; its own words follow
            except BaseException:
                process.kill()
                raise
            status = process.wait()
        if status != 0:
            talk.seek(0)
            lines = talk.read().decode("utf8", "replace").strip().splitlines() or ["no reason given"]
            raise InputError(f"{path}: the video cannot be written ({lines[0]})")
    return path
