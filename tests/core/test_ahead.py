"""Work done ahead is the same work."""

import threading
import time

import pytest

from flexavatar_cli.core.ahead import ahead


def test_items_come_in_order():
    assert list(ahead((number for number in range(100)), depth=3)) == list(range(100))
    assert list(ahead(number for number in ())) == []


def test_errors_are_raised_where_the_items_are_used():
    def failing():
        yield 1
        raise KeyError("two")

    stream = ahead(failing())
    assert next(stream) == 1
    with pytest.raises(KeyError, match="two"):
        next(stream)


def test_no_more_than_depth_is_made_ahead_and_closing_ends_the_thread():
    made, closed = [], []

    def endless():
        try:
            while True:
                made.append(len(made))
                yield made[-1]
        finally:
            closed.append(threading.current_thread().name)

    stream = ahead(endless(), depth=2)
    assert next(stream) == 0
    time.sleep(0.3)
    assert made == [0, 1, 2]
    before = threading.active_count()
    stream.close()
    assert threading.active_count() == before - 1
    assert closed[0].startswith("ahead")
