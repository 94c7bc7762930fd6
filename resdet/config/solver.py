"""The settings of the optimizer, shared by detectors and classifiers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from resdet.config.ranges import BatchSize, Count, Counts, Decay, Factor, Fraction, Range, Step, Steps

Precision = Literal["auto", "fp32", "bf16", "fp16", "int8"]


@dataclass(frozen=True)
class SolverConfig:
    """The optimizer and what surrounds it."""

    optimizer: Literal["sgd", "adamw"] = "sgd"
    """Optimizer: SGD as in the papers, or AdamW, which learns faster from scratch in few steps."""
    lr: Factor = 1e-3
    """Learning rate after warm-up (Faster R-CNN §3.1.3)."""
    steps: Steps = 80_000
    """Total number of optimizer steps."""
    milestones: tuple[Step, ...] = (60_000,)
    """Steps at which the learning rate is multiplied by gamma."""
    schedule: Literal["steps", "cosine", "plateau"] = "steps"
    """Learning rate schedule: drops at the milestones, a half cosine down to 0, or drops when evaluations stop
    improving."""
    gamma: Fraction = 0.1
    """Factor applied to the learning rate at each milestone or plateau."""
    plateau: Count = 5
    """Number of evaluations without improvement after which the plateau schedule drops the learning rate."""
    warmup_steps: Step = 0
    """Number of warm-up steps; 0 turns warm-up off."""
    warmup_factor: Fraction = 0.1
    """Learning rate at the start of warm-up, as a fraction of the full rate."""
    warmup: Literal["linear", "constant"] = "linear"
    """Whether the learning rate grows linearly during warm-up or stays constant (He et al. 2015, §4.2, for 110
    layers)."""
    batch_size: BatchSize = 1
    """Number of images per step over all processes (Faster R-CNN §3.1.3: one)."""
    accumulate: BatchSize = 1
    """Number of parts into which each process splits its share of the batch, accumulating gradients to save
    memory."""
    momentum: Decay = 0.9
    """Momentum of SGD; AdamW uses its usual 0.9 and 0.999."""
    weight_decay: Annotated[float, Range(0, 10)] = 5e-4
    """Weight decay (Faster R-CNN §3.1.3)."""
    decay_all: bool = False
    """Whether weight decay also applies to normalization layers and biases (He et al. 2015 decay every
    parameter)."""
    clip_norm: Annotated[float, Range(0, 1_000_000_000)] = 0.0
    """Maximum norm of the gradient; 0 turns clipping off."""
    ema: Decay = 0.0
    """Decay of the exponential moving average of the weights that is evaluated and saved; 0 turns it off."""
    compile: bool = False
    """Whether to compile a classifier with torch.compile on a GPU, which takes a minute at the start and makes
    steps faster."""
    precision: Precision = "auto"
    """Precision of convolutions and matrix products; auto uses bf16 where the processor supports it, and int8 needs
    a detector that `resdet quantize` has prepared."""
    eval_every: Step = 5_000
    """Number of steps between evaluations on the validation data; 0 evaluates only at the end."""
    save_every: Step = 1_000
    """Number of steps between checkpoints."""
    log_every: Step = 20
    """Number of steps between log lines."""
    patience: Counts = 0
    """Number of evaluations without improvement after which training stops early; 0 never stops early."""
