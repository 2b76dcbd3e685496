"""Work done ahead of its use, in a thread of its own."""

from collections import deque
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")


def ahead(items: Generator[Item, None, None], depth: int = 2) -> Generator[Item, None, None]:
    """The same items in the same order, up to `depth` of them made before they are asked for.

    `items` runs in one thread, start to end, so it gains where its work lets go of Python's lock. Its errors are
    raised here, and closing this generator closes it.
    """
    end = object()
    with ThreadPoolExecutor(1, "ahead") as worker:
        waiting = deque(worker.submit(next, items, end) for _ in range(depth))
        try:
            while (item := waiting.popleft().result()) is not end:
                waiting.append(worker.submit(next, items, end))
                yield item  # type: ignore[misc]
        finally:
            for future in waiting:
                future.cancel()
            worker.submit(items.close)
