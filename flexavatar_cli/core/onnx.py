"""ONNX networks on the CPU, quiet and without spinning threads."""

from pathlib import Path
from typing import TYPE_CHECKING

from flexavatar_cli.core.errors import WeightsError

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

BROKEN = "Fail InvalidArgument InvalidGraph InvalidProtobuf NoSuchFile NotImplemented RuntimeException NoModel EPFail"


def broken() -> tuple[type[Exception], ...]:
    """What onnxruntime raises at a file or an input that is not what it should be; they share no class of their own."""
    from onnxruntime.capi import onnxruntime_pybind11_state as states

    return tuple(getattr(states, name) for name in BROKEN.split())


def start(network: str | bytes, threads: int = 0) -> "InferenceSession":
    """The network at a path or in memory; 0 threads = as many as there are cores. Raises one of `broken()`."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads, settings.log_severity_level = threads, 4
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(network, settings, providers=["CPUExecutionProvider"])


def open_session(path: Path) -> "InferenceSession":
    """The network in the file `path`. Raises WeightsError."""
    try:
        return start(str(path))
    except broken() as error:
        raise WeightsError(f"{path}: not an ONNX net that can be loaded") from error
