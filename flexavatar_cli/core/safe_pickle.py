"""Pickles read without running anything: numpy arrays and plain containers, every other name refused by its name."""

import pickle
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import IO, Any

import numpy as np

# what the unpickler raises at bytes that are no pickle
DAMAGE = (
    pickle.UnpicklingError, EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError, UnicodeDecodeError,
    OverflowError, MemoryError, ImportError, RecursionError, SystemError,
)  # fmt: skip
LATIN = ("latin1", "latin-1", "iso-8859-1")


class Refused(Exception):
    """A pickle that is damaged, or that asks for something other than plain arrays; says what."""


class StandIn:
    """An object of a class that is not imported: its constructor arguments and its state, to look at."""

    kind = ""  # module.name of the class in the file

    def __new__(cls, *arguments: Any, **_named: Any) -> "StandIn":
        made = super().__new__(cls)
        made.arguments = arguments
        made.state = {}
        return made

    arguments: tuple
    state: Any

    def __init__(self, *_arguments: Any, **_named: Any) -> None:
        """Arguments are kept by `__new__`."""

    def __setstate__(self, state: Any) -> None:
        self.state = state


def stand_in(kind: str) -> type[StandIn]:
    """A class whose objects only keep what the pickle says about them."""
    return type("StandIn", (StandIn,), {"kind": kind})


def _empty_array(kind: Any, _shape: Any, _code: Any) -> np.ndarray:
    """numpy's own way to start an array whose content follows."""
    if kind is not np.ndarray:
        raise Refused("an array of a strange class")
    return np.ndarray.__new__(np.ndarray, (0,), np.dtype("b"))


def _scalar(dtype: Any, content: Any = b"") -> Any:
    if not isinstance(dtype, np.dtype) or dtype.hasobject or not isinstance(content, bytes | str):
        raise Refused("a strange scalar")
    raw = content.encode("latin1") if isinstance(content, str) else content
    if len(raw) != dtype.itemsize:
        raise Refused("a scalar of the wrong length")
    return np.frombuffer(raw, dtype)[0]


def _frombuffer(content: Any, dtype: Any, shape: Any, order: Any = "C") -> np.ndarray:
    """An array of pickle protocol 5."""
    if not isinstance(dtype, np.dtype) or dtype.hasobject or order not in ("C", "F"):
        raise Refused("a strange array")
    return np.frombuffer(content, dtype).reshape(shape, order=order)


def _encode(text: Any, codec: Any = "latin1") -> bytes:
    if not isinstance(text, str) or codec not in LATIN:
        raise Refused("text in a strange code")
    return text.encode("latin1")


def _rebuilt(kind: Any, base: Any, _state: Any) -> Any:
    """What copy_reg does for objects of old classes, for stand-ins alone."""
    if not (isinstance(kind, type) and issubclass(kind, StandIn)) or base is not object:
        raise Refused("an object of a strange class")
    return kind()


ARRAYS: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _encode,
    ("collections", "OrderedDict"): OrderedDict,
}
for _package in ("numpy.core", "numpy._core"):  # numpy 2 writes the second name
    ARRAYS |= {
        (f"{_package}.multiarray", "_reconstruct"): _empty_array,
        (f"{_package}.multiarray", "scalar"): _scalar,
        (f"{_package}.numeric", "_frombuffer"): _frombuffer,
    }
OLD_OBJECTS: dict[tuple[str, str], Any] = {
    ("copy_reg", "_reconstructor"): _rebuilt,
    ("copyreg", "_reconstructor"): _rebuilt,
    ("__builtin__", "object"): object,
    ("builtins", "object"): object,
}


class Reader(pickle.Unpickler):
    """An unpickler that finds only the names it was given."""

    def __init__(
        self,
        stream: IO[bytes],
        names: Mapping[tuple[str, str], Any],
        more: Callable[[str, str], Any] | None,
        encoding: str,
    ) -> None:
        super().__init__(stream, encoding=encoding)
        self.names, self.more = names, more

    def find_class(self, module: str, name: str) -> Any:
        """The thing that `module.name` stands for here. Raises Refused."""
        if (module, name) in self.names:
            return self.names[module, name]
        found = self.more(module, name) if self.more is not None else None
        if found is None:
            raise Refused(f"it asks for {module}.{name}, which is no array; nothing was run")
        return found

    def persistent_load(self, pid: Any) -> Any:
        """Raises Refused: things kept outside the pickle are not read."""
        raise Refused("it refers to data outside itself")


def read_arrays(
    stream: IO[bytes],
    more: Callable[[str, str], Any] | None = None,  # further names: what (module, name) stands for, None = refused
    encoding: str = "ASCII",  # of Python 2 strings; latin1 where they hold arrays
) -> Any:
    """The content of a pickle made of numpy arrays and plain containers. Raises Refused, never runs the file."""
    names = ARRAYS if more is None else ARRAYS | OLD_OBJECTS
    try:
        return Reader(stream, names, more, encoding).load()
    except Refused:
        raise
    except DAMAGE as error:
        raise Refused(f"damaged ({(str(error).splitlines() or [type(error).__name__])[0][:100]})") from error
