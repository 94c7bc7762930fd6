"""Names in pictures, plots and tables: any text, as far as the fonts at hand can show it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache

from matplotlib import font_manager, rc_context, rcParams
from matplotlib.ft2font import FT2Font

LONGEST = 40  # characters
_NO_GLYPHS = ("Last Resort", "LastResort", "Adobe Blank")  # fonts that have a box, or nothing, for every character
logger = logging.getLogger(__name__)


def one_line(text: str) -> str:
    """`text` without what breaks a line of a table or a plot: blanks are single, what cannot be printed is escaped
    (as in ``\\x1b``), and a long text is cut."""
    chars = (char if char.isprintable() else char.encode("unicode_escape").decode() for char in _joined(text))
    line = "".join(chars)
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 1]}…"


def _joined(text: str) -> str:
    """Single blanks, and no invisible joiners and selectors, such as emoji have."""
    return " ".join(text.translate({0x200D: None, 0xFE0E: None, 0xFE0F: None}).split())


@contextmanager
def lettering(classes: Sequence[str], *more: str) -> Iterator[list[str]]:
    """Inside this block, plots are made with fonts for these texts → what to write for `classes`, then for `more`.

    A class that no font can show is its number, as in ``#3``; another text has its characters escaped. A dollar
    begins no formula.
    """
    texts = [one_line(text) for text in (*classes, *more)]
    families, missing = _fonts(frozenset("".join(texts)))
    hidden = [number for number, text in enumerate(texts) if missing & set(text)]
    for number in hidden:
        text = texts[number]
        texts[number] = f"#{number}" if number < len(classes) else text.encode("ascii", "backslashreplace").decode()
    report_numbers(
        {number: classes[number] for number in hidden if number < len(classes)},
        "plots",
        "matplotlib finds no font that has them: install one, such as Noto Sans CJK",
    )
    with rc_context({"font.family": [*rcParams["font.family"], *families], "text.parse_math": False}):
        yield texts


def report_numbers(classes: Mapping[int, str], where: str, why: str) -> None:
    """Log, once in a process, that the numbers of these classes stand for their names in `where`."""
    if classes:
        some = [f"#{number} is {one_line(name)!r}" for number, name in list(classes.items())[:3]]
        _report_once(", ".join(some) + ", …" * (len(classes) > 3), where, why)


@cache
def _report_once(names: str, where: str, why: str) -> None:
    logger.warning(f"The {where} show the numbers of some classes instead of their names ({names}), since {why}.")


@cache
def _fonts(chars: frozenset[str]) -> tuple[list[str], frozenset[str]]:
    """Families of fonts, besides the usual one, that have as many of `chars` as can be, and what is missing."""
    families: list[str] = []
    missing = chars - _characters(font_manager.findfont(font_manager.FontProperties()))
    while missing:
        family, found = max(((name, missing & own) for name, own in _installed()), key=lambda pair: len(pair[1]))
        if not found:
            break
        families.append(family)
        missing -= found
    return families, missing


@cache
def _installed() -> list[tuple[str, frozenset[str]]]:
    """The families of fonts that can be drawn here, and their characters."""
    manager = font_manager.fontManager
    known = {font.fname for font in manager.ttflist}
    for path in sorted({*font_manager.findSystemFonts()} - known):  # installed since matplotlib made its list
        try:
            manager.addfont(path)
        except (OSError, RuntimeError):  # what is no font, or of another kind
            continue
    files: dict[str, str] = {}  # the one of several that matplotlib takes for the name is its first
    for font in manager.ttflist:
        plain = (font.style, font.variant, font.weight, font.stretch) == ("normal", "normal", 400, "normal")
        if plain and not font.name.startswith((".", *_NO_GLYPHS)):
            files.setdefault(font.name, font.fname)
    return [(name, _characters(file)) for name, file in sorted(files.items())]


def _characters(path: str) -> frozenset[str]:
    """What a font can draw; nothing for one of pixels, as those of colored emoji are."""
    font = FT2Font(path)
    return frozenset(map(chr, font.get_charmap())) if font.scalable else frozenset()
