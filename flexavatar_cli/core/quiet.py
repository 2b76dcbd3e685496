"""Silence for native libraries that write to the terminal past Python's own streams."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def native_silence() -> Iterator[None]:
    """Swallow what native code (mediapipe, TensorFlow Lite) writes to file descriptor 2; show it if the block fails."""
    sys.stderr.flush()
    keep = os.dup(2)
    with tempfile.TemporaryFile() as swallowed:
        os.dup2(swallowed.fileno(), 2)
        try:
            yield
        except BaseException:
            os.dup2(keep, 2)
            swallowed.seek(0)
            os.write(2, swallowed.read())
            raise
        finally:
            os.dup2(keep, 2)
            os.close(keep)
