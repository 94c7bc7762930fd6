"""Builds the compiled operators; everything else is declared in pyproject.toml.

They use torch's stable ABI: one build serves every torch from 2.11 on. What cannot be built is left out with one
line, and torchvision's operators serve in its place. RESDET_BUILD=0 builds nothing, RESDET_BUILD=cpu no CUDA.
"""

import os
from pathlib import Path

from setuptools import setup

CSRC = Path("resdet/ops/csrc")
MACROS = [("TORCH_TARGET_VERSION", "0x020b000000000000")]  # torch 2.11
ARCHITECTURES = "8.0;9.0+PTX"  # of CUDA code where no GPU is seen and TORCH_CUDA_ARCH_LIST is not set


def extensions() -> tuple[list, dict]:
    """What to build, and the command that builds it."""
    wanted = os.environ.get("RESDET_BUILD", "all")
    try:
        import torch
        from torch.utils import cpp_extension as torch_build
    except ImportError:
        wanted = "0"
    if wanted == "0":
        return [], {}

    class BuildWhatWorks(torch_build.BuildExtension):
        """An extension that cannot be built is left out."""

        def build_extensions(self) -> None:
            built = []
            for extension in self.extensions:
                self.extensions = [extension]
                try:
                    super().build_extensions()
                    built.append(extension)
                except (Exception, SystemExit) as error:
                    reason = str(error).strip().splitlines() or [repr(error)]
                    print(f"resdet: {extension.name} was not built ({reason[0]})")
            self.extensions = built

    cpu = sorted(str(path) for path in [CSRC / "library.cpp", *CSRC.glob("cpu/*.cpp")])
    options = {"define_macros": MACROS, "py_limited_api": True}
    found = [torch_build.CppExtension("resdet.ops._cpu", cpu, extra_compile_args=["-O3", "-std=c++17"], **options)]
    if wanted == "all" and torch_build.CUDA_HOME and torch.version.cuda:
        if not torch.cuda.is_available():
            os.environ.setdefault("TORCH_CUDA_ARCH_LIST", ARCHITECTURES)
        cuda = sorted(str(path) for path in CSRC.glob("cuda/*.cu"))
        if cuda:
            flags = {"cxx": ["-O3"], "nvcc": ["-O3", "-DUSE_CUDA"]}
            found.append(torch_build.CUDAExtension("resdet.ops._cuda", cuda, extra_compile_args=flags, **options))
    return found, {"build_ext": BuildWhatWorks}


modules, commands = extensions()
setup(ext_modules=modules, cmdclass=commands)
