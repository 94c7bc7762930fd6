"""Devices and number types, by the names that people give them."""

from __future__ import annotations

import os
import re
from functools import partial

import torch

from resdet.errors import UserError
from resdet.ops.fastest import fastest

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
ALIASES = {
    "fp32": ("float32", "float", "single", "full", "32"),
    "bf16": ("bfloat16",),
    "fp16": ("float16", "half", "16"),
}


def choose_device(device: str | int | torch.device | None) -> torch.device:
    """The device that is meant by auto, None, cpu, cuda, gpu, cuda:1, "1", 1, or an object of torch's.

    Raises UserError for one that is not there, or that several processes would share.
    """
    name = "auto" if device is None else str(device).strip().lower() or "auto"
    name = re.sub(r"^gpu\b", "cuda", f"cuda:{name}" if re.fullmatch("[0-9]+", name) else name)
    if name.partition(":")[0] == "mps":
        raise UserError(f"Device {device}: resdet does not run on Apple's GPUs; choose cpu.")
    if not re.fullmatch(r"auto|cpu(:0)?|cuda(:[0-9]+)?", name):
        hint = "; for several GPUs, start torchrun" if "," in name else ""
        raise UserError(f"Device not found: {device}; choose auto, cpu, cuda or cuda:N{hint}.")
    available = torch.cuda.is_available()
    if name.startswith("cpu") or (name == "auto" and not available):
        return torch.device("cpu")
    if not available:
        raise UserError(f"Device {device}: torch {torch.__version__} finds no CUDA device here; choose cpu.")
    return torch.device("cuda", _gpu(name, device))


def _gpu(name: str, device: object) -> int:
    """Number of the GPU called `name`. Raises UserError if it is missing, or several processes would share it."""
    gpus, processes = torch.cuda.device_count(), local_world_size()
    number = name.partition(":")[2]
    if not number:
        if processes > gpus:
            raise UserError(
                f"Device {device}: {processes} processes on this machine need a GPU each, but torch sees {gpus}; "
                f"start torchrun with --nproc-per-node {gpus}."
            )
        return int(os.environ.get("LOCAL_RANK", 0))
    if processes > 1:
        raise UserError(
            f"Device {device}: all {processes} processes on this machine would share this GPU; choose cuda, with "
            "which each process takes the GPU of its local rank."
        )
    if int(number) >= gpus:
        raise UserError(f"GPU not found: {device}; the last one here is cuda:{gpus - 1}.")
    return int(number)


def local_world_size() -> int:
    """Number of processes on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def choose_dtype(precision: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    """The type of the multiplications: auto, None, fp32, bf16, fp16, other names for these, or a type of torch's.

    Raises UserError for any other.
    """
    name = "auto" if precision is None else str(precision).lower().removeprefix("torch.")
    name = next((ours for ours, names in ALIASES.items() if name in names), name)
    if name == "auto":
        if device.type == "cuda":
            return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
        return _fastest_on_cpu()
    if name not in DTYPES:
        raise UserError(f"Precision not found: {precision}; choose auto, {', '.join(DTYPES)} or int8.")
    return DTYPES[name]


def _fastest_on_cpu() -> torch.dtype:
    """bfloat16 where the processor has it, unless its float32 products are faster: then that costs no digits."""
    if not torch.cpu._is_avx512_bf16_supported():
        return torch.float32
    matrices = {name: torch.ones(1024, 1024, dtype=DTYPES[name]) for name in ("bf16", "fp32")}
    ways = {name: partial(torch.mm, matrix, matrix) for name, matrix in matrices.items()}
    return DTYPES[fastest("products of matrices", ways)]


def is_int8(precision: str | torch.dtype | None) -> bool:
    """Whether int8 is meant, for which a detector needs to be calibrated."""
    return str(precision).lower().removeprefix("torch.") == "int8"


def check_int8(device: torch.device) -> None:
    """Raise UserError where whole numbers cannot be multiplied, or not faster than others."""
    if device.type != "cpu":
        raise UserError("Precision int8 is for CPUs: choose bf16 or fp16 on a GPU, or --device cpu.")
    if not (torch.backends.mkldnn.is_available() and torch.cpu._is_vnni_supported()):
        raise UserError(
            "Precision int8: this processor, or this build of torch, has no fast int8 products (AVX512-VNNI or "
            "AMX); choose auto."
        )
