"""Reading beside computing."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def map_ahead(function: Callable[[T], R], items: Iterable[T], most: int) -> Iterator[R]:
    """`map`, whose next results another thread prepares while the last one is used.

    The items are taken in the thread that asks, and results come in their order. An exception is raised where its
    result would come.

    Args:
        function: must not depend on the thread that it is called in
        items: what it is given
        most: results that are held or prepared besides the one that is used
    """
    pending: deque[Future[R]] = deque()
    with ThreadPoolExecutor(1, "resdet-ahead") as pool:
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) > most:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
