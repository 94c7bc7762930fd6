"""Builds the compiled operators and lists the packages; everything else is declared in pyproject.toml.

The recipes in configs/ are installed as resdet/recipes, where `resdet.config.find_recipe` looks for them.

The operators use torch's stable ABI: one build serves every torch from 2.11 on. The CUDA part is built where
there is a CUDA toolkit and a GPU, or TORCH_CUDA_ARCH_LIST names some. What cannot be built is left out with one
line, and torchvision's operators serve in its place. RESDET_BUILD=0 builds nothing; RESDET_SANITIZE=1 builds
operators that stop at a wrong access to memory and at undefined arithmetic (`make sanitize`).
"""

import os
from pathlib import Path

from setuptools import find_namespace_packages, setup

CSRC = Path("resdet/ops/csrc")
MACROS = [("TORCH_TARGET_VERSION", "0x020b000000000000")]  # torch 2.11


def extensions() -> tuple[list, dict]:
    """What to build, and the command that builds it."""
    if os.environ.get("RESDET_BUILD") == "0":
        return [], {}
    try:
        import torch
        from torch.utils import cpp_extension as torch_build
    except ImportError:
        return [], {}

    class BuildWhatWorks(torch_build.BuildExtension):
        """What cannot be built is left out."""

        def build_extensions(self) -> None:
            wanted = self.extensions
            self.extensions = []
            for extension in wanted:
                device = extension.name.rpartition("_")[2]
                try:
                    self.extensions = [extension]
                    super().build_extensions()
                except (Exception, SystemExit) as error:
                    reason = str(error).strip().splitlines() or [repr(error)]
                    print(f"resdet: the operators for {device} were not built ({reason[0]})")
                    wanted = [other for other in wanted if other is not extension]
            self.extensions = wanted

    def extension(device: str, kind: type, sources: list[Path], **options: object) -> object:
        return kind(
            f"resdet.ops._{device}",
            sorted(map(str, sources)),
            define_macros=MACROS + options.pop("macros", []),
            py_limited_api=True,
            **options,
        )

    flags = ["-O3", "-std=c++17"]
    if os.environ.get("RESDET_SANITIZE") == "1":
        flags = ["-O1", "-g", "-std=c++17", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
    sources = [CSRC / "library.cpp", *CSRC.glob("cpu/*.cpp")]
    linked = [flag for flag in flags if "sanitize" in flag]
    found = [extension("cpu", torch_build.CppExtension, sources, extra_compile_args=flags, extra_link_args=linked)]
    nvcc = Path(torch_build.CUDA_HOME or "", "bin", "nvcc").resolve()
    wanted = torch.cuda.is_available() or os.environ.get("TORCH_CUDA_ARCH_LIST")
    if torch.version.cuda and torch_build.CUDA_HOME and nvcc.exists() and wanted:
        found.append(
            extension(
                "cuda",
                torch_build.CUDAExtension,
                [*CSRC.glob("cuda/*.cu")],
                macros=[("USE_CUDA", None)],
                extra_compile_args={"cxx": flags, "nvcc": flags},
                library_dirs=[str(nvcc.parents[1] / "lib")],  # some toolkits have no lib64
            )
        )
    return found, {"build_ext": BuildWhatWorks}


modules, commands = extensions()
recipes = ["resdet.recipes", *(f"resdet.recipes.{folder}" for folder in find_namespace_packages("configs"))]
setup(
    packages=[*find_namespace_packages(include=["resdet", "resdet.*"]), *recipes],
    package_dir={"resdet.recipes": "configs"},
    ext_modules=modules,
    cmdclass=commands,
)
