"""Everything is declared in pyproject.toml; the compiled operators will be built from here."""

from setuptools import setup

setup()
