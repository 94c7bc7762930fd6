"""Where training runs: processes, and the device and number type of each."""

from __future__ import annotations

import ctypes
import logging
import os
import platform
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from resdet.engine.device import check_int8, choose_device, choose_dtype, is_int8
from resdet.errors import UserError

T = TypeVar("T")
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Runtime:
    """One process of a training run."""

    rank: int
    world: int
    device: torch.device
    dtype: torch.dtype
    """type of the multiplications"""
    int8: bool = False
    """whether a detector's layers that can multiply whole numbers do so, and only the others `dtype`"""

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def autocast(self) -> AbstractContextManager[Any]:
        """Mixed precision for the forward pass."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def alone(self) -> Runtime:
        """The same for work that this process does by itself, without a share for the others."""
        return replace(self, rank=0, world=1)


def rank() -> int:
    """Number of this process; the main process is 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Whether this process writes files and prints."""
    return rank() == 0


@contextmanager
def process_group() -> Iterator[None]:
    """Under torchrun, connect the processes inside this block: nccl for tensors on GPUs, gloo for all else.

    The outermost command opens it once. A second group in the same processes could not be connected, since
    torchrun's store still holds the addresses of the first.
    """
    if "WORLD_SIZE" not in os.environ or dist.is_initialized():
        yield
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    # Ten minutes, so that a process that died stops the others instead of leaving them waiting for ever.
    dist.init_process_group(backend, timeout=timedelta(minutes=10))
    try:
        yield
    finally:
        dist.destroy_process_group()


def gather(value: T) -> list[T]:
    """The `value` of every process, in the order of their ranks, on every process."""
    if not dist.is_initialized():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def from_main(make: Callable[[], T]) -> T:
    """What `make` returns on the main process, on every process; its UserError is raised on every process too.

    What depends on files is decided this way, since the others may see them later or not at all. `make` must not
    communicate: only the main process calls it.
    """
    if not dist.is_initialized():
        return make()
    values: list[Any] = [None, None]
    if is_main():
        try:
            values[0] = make()
        except UserError as error:
            values[1] = error
    dist.broadcast_object_list(values)
    if values[1] is not None:
        raise values[1]
    return values[0]


def mean(values: Mapping[str, float]) -> dict[str, float]:
    """Each of `values`, averaged over the processes."""
    if not dist.is_initialized():
        return dict(values)
    total = torch.tensor(list(values.values()), dtype=torch.float64)
    dist.all_reduce(total)
    return dict(zip(values, (total / dist.get_world_size()).tolist(), strict=True))


def choose(device: str | int | torch.device | None, precision: str | torch.dtype | None) -> Runtime:
    """The device and the number type of this process, inside `process_group` if there are several.

    Raises UserError for what is not there, as `choose_device` and `choose_dtype` do.
    """
    chosen, int8 = choose_device(device), is_int8(precision)
    if int8:
        check_int8(chosen)
    dtype = choose_dtype("auto" if int8 else precision, chosen)
    return Runtime(rank(), world_size(), chosen, dtype, int8)


def start(device: str, precision: str, *, detects: bool = False) -> Runtime:
    """`choose`, and set this process up for it, as a library must not: its GPU, TF32, and the memory allocator.

    Raises UserError for int8 too, unless this process only `detects`.
    """
    runtime = choose(device, precision)
    if runtime.int8 and not detects:
        raise UserError("Precision int8 is for detect and eval-det alone: choose auto, fp32, bf16 or fp16.")
    if runtime.device.type == "cuda":
        torch.cuda.set_device(runtime.device)
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = precision != "fp32"
    else:
        if runtime.dtype == torch.float16:
            logger.warning("float16 takes minutes for a training step on a CPU: bf16 and fp32 are faster there.")
        keep_freed_memory()
    return runtime


def keep_freed_memory() -> None:
    """Ask the C allocator to keep large freed blocks instead of returning them to the system.

    Each step frees and takes the same large activations; without this, much of a CPU step is page faults.
    """
    if platform.system() == "Linux" and platform.libc_ver()[0] == "glibc":
        trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
        libc = ctypes.CDLL(None)
        # Older versions refuse more than HEAP_MAX / 2 = 2²⁵ bytes. The trim threshold must not be set alone: that
        # would freeze the mmap threshold at 128 KiB, which glibc otherwise raises by itself.
        if any(libc.mallopt(mmap_threshold, size) for size in (2**31 - 1, 2**25)):
            libc.mallopt(trim_threshold, 2**31 - 1)
