"""Names of all scripts in plots: shown where a font has them, numbered where none has, and never a warning each."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from matplotlib import rcParams
from matplotlib.figure import Figure

from resdet import lettering as module
from resdet.lettering import lettering, one_line

ODD = ("安全帽", "한국어", "👨\u200d👩\u200d👧", "𖭑")
PLAIN = (
    "cat",
    "Käse 5€, groß",
    "$5_bill$",
    "a_{b}^$x$",
    r"$\nonsense{$",
    "_hidden",
    "a→b × −1 …",
    "Ελλάδα",
    "кот",
    "",
)


@pytest.fixture
def no_other_fonts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Only the font that comes with matplotlib."""
    monkeypatch.setattr(module, "_installed", lambda: [("none", frozenset())])
    for cached in (module._fonts, module._report_once):
        cached.cache_clear()
    yield
    module._fonts.cache_clear()


def draw(names: list[str] | tuple[str, ...], path: Path, *more: str) -> list[str]:
    """Write a plot with these texts → the texts that it shows."""
    with lettering(names, *more) as texts:
        axes = Figure(layout="constrained").add_subplot()
        axes.set_xticks(range(len(texts)), texts, rotation=90)
        axes.set_title(texts[-1])
        axes.plot([1], [1], label=f"1.0 {texts[0]}")
        axes.legend()
        axes.figure.savefig(path)
        assert [label.get_text() for label in axes.get_xticklabels()] == texts
    return texts


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("two  words\n ", "two words"),
        ("\x1b[31mred\x00", "\\x1b[31mred\\x00"),
        ("\ud800", "\\ud800"),
        ("👩\u200d❤\ufe0f", "👩❤"),
        ("安\u3000全", "安 全"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("x" * 40, "x" * 40),
        ("x" * 41, "x" * 39 + "…"),
    ],
)
def test_a_text_fits_a_line(text: str, line: str) -> None:
    assert one_line(text) == line


@pytest.mark.filterwarnings("error")
@pytest.mark.usefixtures("no_other_fonts")
def test_what_no_font_has_is_numbered_and_reported_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = [*PLAIN, *ODD]
    for _ in range(2):
        with caplog.at_level(logging.WARNING):
            texts = draw(names, tmp_path / "plot.png", "训练 a")
    assert texts == [*PLAIN, *(f"#{number}" for number in range(len(PLAIN), len(names))), "\\u8bad\\u7ec3 a"]
    (record,) = caplog.records
    assert "#10 is '安全帽'" in record.getMessage() and "Noto Sans CJK" in record.getMessage()


@pytest.mark.filterwarnings("error")
@pytest.mark.usefixtures("no_other_fonts")
def test_plain_names_are_shown_as_they_are_and_without_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert draw(PLAIN, tmp_path / "plot.png") == list(PLAIN) and not caplog.records


@pytest.mark.filterwarnings("error")
def test_a_font_that_has_the_characters_is_taken(tmp_path: Path) -> None:
    """STIXGeneral comes with matplotlib and has letters that DejaVu Sans lacks."""
    usual, name = rcParams["font.family"], "fence ⃝\u1d8d"
    assert draw([name, "cat"], tmp_path / "plot.png") == [name, "cat"]
    assert rcParams["font.family"] == usual


def test_fonts_of_placeholders_and_of_pixels_are_not_taken() -> None:
    assert all("Last Resort" not in family for family, _ in module._installed())
    assert module._fonts(frozenset("\U000e0fff"))[1]
