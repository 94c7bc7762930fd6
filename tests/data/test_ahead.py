"""Reading beside computing."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from resdet.data.ahead import map_ahead


@pytest.mark.parametrize("most", [0, 1, 3, 50])
@pytest.mark.parametrize("count", [0, 1, 2, 20])
def test_results_come_in_the_order_of_the_items(count: int, most: int) -> None:
    assert list(map_ahead(lambda x: x * x, range(count), most)) == [x * x for x in range(count)]


def test_no_more_is_taken_than_may_be_held() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for n in range(20):
            taken.append(n)
            yield n

    results = map_ahead(lambda x: x, items(), 3)
    for n in range(20):
        assert next(results) == n and len(taken) <= n + 4


def test_the_next_result_is_made_while_the_last_one_is_used() -> None:
    begun = [threading.Event() for _ in range(3)]
    results = map_ahead(lambda n: begun[n].set() or n, range(3), 1)
    assert next(results) == 0 and begun[1].wait(10)


def test_an_exception_comes_where_its_result_would_come() -> None:
    results = map_ahead(lambda x: 1 // x, [1, 1, 0, 1], 2)
    assert [next(results), next(results)] == [1, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_nothing_goes_on_for_someone_who_left() -> None:
    ran: list[int] = []
    gate = threading.Event()

    def wait(x: int) -> int:
        gate.wait(10)
        ran.append(x)
        return x

    results = map_ahead(wait, range(100), 50)
    threading.Timer(0.2, gate.set).start()
    next(results)
    results.close()  # type: ignore[attr-defined]
    before = len(ran)
    assert before < 60 and not any(thread.name.startswith("resdet-ahead") for thread in threading.enumerate())
