"""Silence for native libraries that write to the terminal past Python's own streams."""

import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def native_silence() -> Iterator[None]:
    """Swallow warnings and what native code (mediapipe, TensorFlow Lite) writes to file descriptor 2.

    If the block fails, what native code wrote is shown.
    """
    sys.stderr.flush()
    try:
        keep = os.dup(2)
    except OSError:  # no stderr at all
        yield
        return
    with tempfile.TemporaryFile() as swallowed, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        os.dup2(swallowed.fileno(), 2)
        try:
            yield
        except BaseException:
            swallowed.seek(0)
            os.write(keep, swallowed.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(keep, 2)
            os.close(keep)
