"""The values that the settings may take: a config's fields have these types in place of a bare int, float or tuple.

The limits above are where a value stops being a choice and becomes a mistake: no image has a million pixels on a
side, and no machine runs a million processes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included unless said otherwise. NaN is in no range."""

    low: float
    high: float
    open_low: bool = False
    """`low` itself is left out"""
    open_high: bool = False
    """`high` itself is left out"""
    or_zero: bool = False
    """0 is allowed too, and switches something off"""

    def __contains__(self, value: float) -> bool:
        if isinstance(value, bool):  # an int to Python, but not a number to anybody else
            return False
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        return (above and below) or (self.or_zero and value == 0)

    def __str__(self) -> str:
        zero = "0, or " * self.or_zero
        low = f"{'more than' if self.open_low else 'at least'} {self.low}"
        return f"{zero}{low} and {'less than' if self.open_high else 'at most'} {self.high}"


@dataclass(frozen=True)
class AtLeast:
    """Tuples of `count` values or more."""

    count: int

    def __contains__(self, value: tuple[object, ...]) -> bool:
        return len(value) >= self.count

    def __str__(self) -> str:
        return f"at least {self.count} value{'s' * (self.count > 1)}"


NonEmpty = Annotated[tuple[T, ...], AtLeast(1)]

Fraction = Annotated[float, Range(0, 1)]
"""a share, a probability or an IoU"""
Positive = Annotated[float, Range(0, 1, open_low=True)]
"""a share or an IoU that is not 0"""
Decay = Annotated[float, Range(0, 1, open_high=True)]
"""what is kept of something at each step, or dropped of it, but not all"""
Factor = Annotated[float, Range(0, 1000)]
"""a weight, a width or a rate"""

Seed = Annotated[int, Range(0, 2**63 - 1)]
Step = Annotated[int, Range(0, 1_000_000_000)]
"""steps or images, or 0 of them"""
Steps = Annotated[int, Range(1, 1_000_000_000)]
Count = Annotated[int, Range(1, 1_000_000)]
"""anchors, regions, proposals, detections or evaluations"""
Counts = Annotated[int, Range(0, 1_000_000)]
"""as many, or 0 of them"""
BatchSize = Annotated[int, Range(1, 65_536)]
Workers = Annotated[int, Range(0, 256)]

Pixels = Annotated[int, Range(32, 10_000)]
"""a side of a detector's images, two cells of the feature map or more"""
SmallPixels = Annotated[int, Range(8, 4_096)]
"""a side of a classifier's images"""
Channels = Annotated[int, Range(1, 65_536)]
Cells = Annotated[int, Range(1, 256)]
"""cells or pixels along each side of a pooled region"""
