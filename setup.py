"""Builds the compiled operators; everything else is declared in pyproject.toml.

They use torch's stable ABI: one build serves every torch from 2.11 on. What cannot be built is left out with one
line, and torchvision's operators serve in its place. RESDET_BUILD=0 builds nothing.
"""

import os
from pathlib import Path

from setuptools import setup

CSRC = Path("resdet/ops/csrc")
MACROS = [("TORCH_TARGET_VERSION", "0x020b000000000000")]  # torch 2.11


def extensions() -> tuple[list, dict]:
    """What to build, and the command that builds it."""
    if os.environ.get("RESDET_BUILD") == "0":
        return [], {}
    try:
        from torch.utils import cpp_extension as torch_build
    except ImportError:
        return [], {}

    class BuildWhatWorks(torch_build.BuildExtension):
        """What cannot be built is left out."""

        def build_extensions(self) -> None:
            try:
                super().build_extensions()
            except (Exception, SystemExit) as error:
                reason = str(error).strip().splitlines() or [repr(error)]
                print(f"resdet: the operators were not built ({reason[0]})")
                self.extensions = []

    sources = sorted(str(path) for path in [CSRC / "library.cpp", *CSRC.glob("cpu/*.cpp")])
    flags = ["-O3", "-std=c++17"]
    extension = torch_build.CppExtension(
        "resdet.ops._cpu", sources, define_macros=MACROS, extra_compile_args=flags, py_limited_api=True
    )
    return [extension], {"build_ext": BuildWhatWorks}


modules, commands = extensions()
setup(ext_modules=modules, cmdclass=commands)
