"""resdet.ops.fastest: what is fastest is measured once, and remembered for the next process."""

import json
import time

import pytest

from resdet.errors import UserError
from resdet.ops import fastest as module
from resdet.ops.fastest import cells_class, fastest, this_processor


@pytest.fixture(autouse=True)
def measures(monkeypatch, tmp_path):
    """Measurements are made here, and kept in a folder of the test."""
    monkeypatch.delenv("RESDET_MEASURE")
    monkeypatch.setenv("RESDET_HOME", str(tmp_path / "home"))
    module._read.cache_clear()
    yield tmp_path / "home/fastest.json"
    module._read.cache_clear()


class Way:
    """Takes so many seconds of a clock that stands still otherwise."""

    def __init__(self, clock, seconds):
        self.clock, self.seconds, self.calls = clock, seconds, 0

    def __call__(self):
        self.calls += 1
        self.clock[0] += self.seconds


@pytest.fixture
def ways(monkeypatch):
    """`ways(a=2.0, b=1.0)`: name → a way that takes so long."""
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    return lambda **seconds: {name: Way(clock, value) for name, value in seconds.items()}


def test_the_fastest_is_found_and_remembered(ways, measures):
    found = ways(rule=2.0, slow=3.0, fast=1.0)
    assert fastest("a layer", found) == "fast"
    calls = [way.calls for way in found.values()]
    assert min(calls) == max(calls) > 1
    assert json.loads(measures.read_text()) == {this_processor(): {"a layer": "fast"}}
    assert fastest("a layer", found) == "fast" and [way.calls for way in found.values()] == calls


def test_the_next_process_computes_as_this_one_did(ways):
    assert fastest("a layer", ways(rule=2.0, fast=1.0)) == "fast"
    module._read.cache_clear()
    found = ways(rule=1.0, fast=2.0)
    assert fastest("a layer", found) == "fast" and found["rule"].calls == 0


def test_noise_does_not_beat_the_rule(ways):
    assert fastest("a layer", ways(rule=1.0, other=0.95)) == "rule"
    assert fastest("another layer", ways(rule=1.0, other=0.85)) == "other"


def test_a_warm_up_is_not_counted(ways):
    found = ways(rule=2.0, fast=1.0)
    found["fast"].seconds = 100.0
    plain = Way.__call__

    class Warming(Way):
        def __call__(self):
            plain(self)
            self.seconds = 1.0

    found["fast"].__class__ = Warming
    assert fastest("a layer", found) == "fast"


def test_another_processor_or_number_of_threads_measures_anew(ways, monkeypatch):
    assert fastest("a layer", ways(rule=2.0, fast=1.0)) == "fast"
    monkeypatch.setattr(module.torch, "get_num_threads", lambda: 64)
    assert fastest("a layer", ways(rule=1.0, fast=2.0)) == "rule"
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert "AVX2" in this_processor()
    assert fastest("a layer", ways(rule=2.0, fast=1.0)) == "fast"


def test_a_way_that_is_no_longer_there_is_measured_anew(ways):
    assert fastest("a layer", ways(rule=2.0, fast=1.0)) == "fast"
    assert fastest("a layer", ways(rule=2.0, faster=1.0)) == "faster"


def test_what_another_process_has_written_stays(ways, measures):
    assert fastest("a layer", ways(rule=2.0, fast=1.0)) == "fast"
    content = json.loads(measures.read_text())
    content["another processor"] = {"a layer": "rule"}
    content[this_processor()]["its layer"] = "fast"
    measures.write_text(json.dumps(content))
    assert fastest("a third layer", ways(rule=1.0, fast=2.0)) == "rule"
    content[this_processor()]["a third layer"] = "rule"
    assert json.loads(measures.read_text()) == content


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"a": 1}', '{"a": [1]}', '"x"', "[" * 100_000, "\udcff"])
def test_a_file_that_cannot_be_read_is_as_good_as_none(text, ways, measures):
    measures.parent.mkdir()
    measures.write_bytes(text.encode("utf-8", "surrogateescape"))
    assert fastest("a layer", ways(rule=2.0, fast=1.0)) == "fast"
    assert json.loads(measures.read_text()) == {this_processor(): {"a layer": "fast"}}


def test_a_way_that_is_no_text_is_measured_anew(ways, measures):
    measures.parent.mkdir()
    for way in (["fast"], {"fast": 1}, None, 7):
        measures.write_text(json.dumps({this_processor(): {"a layer": way}}))
        module._read.cache_clear()
        assert fastest("a layer", ways(rule=2.0, fast=1.0)) == "fast"


def test_where_nothing_can_be_remembered_the_rule_holds(ways, measures):
    measures.parent.write_text("a file where a folder is needed")
    found = ways(rule=2.0, fast=1.0)
    assert fastest("a layer", found) == "rule"
    assert not any(way.calls for way in found.values())  # by every process, for nothing


def test_where_remembering_fails_the_rule_holds(ways, measures, monkeypatch):
    def full(path, text):
        raise UserError("Cannot write it (No space left on device): free some space.")

    monkeypatch.setattr(module, "write_text", full)
    found = ways(rule=2.0, fast=1.0)
    assert fastest("a layer", found) == "rule"
    calls = found["rule"].calls
    assert fastest("a layer", found) == "rule" and found["rule"].calls == calls  # and is not measured again


def test_the_rule_holds_where_measuring_is_off_and_where_there_is_no_choice(ways, measures, monkeypatch):
    found = ways(rule=2.0)
    assert fastest("a layer", found) == "rule" and not found["rule"].calls
    monkeypatch.setenv("RESDET_MEASURE", "0")
    found = ways(rule=2.0, fast=1.0)
    assert fastest("a layer", found) == "rule" and not found["fast"].calls and not measures.exists()


def test_maps_of_like_size_share_a_measurement():
    assert cells_class(4 * 75 * 100) == cells_class(4 * 60 * 80) != cells_class(4 * 300 * 400)
    assert len({cells_class(count) for count in range(100_000)}) < 12
