"""The settings of the optimizer, shared by detectors and classifiers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from resdet.config.ranges import BatchSize, Count, Counts, Decay, Factor, Fraction, Range, Step, Steps


@dataclass(frozen=True)
class SolverConfig:
    """The optimizer and what surrounds it."""

    optimizer: Literal["sgd", "adamw"] = "sgd"
    """sgd as in the papers; adamw learns faster from scratch when steps are few"""
    lr: Factor = 1e-3
    """learning rate after the warm-up (Faster R-CNN §3.1.3)"""
    steps: Steps = 80_000
    """optimizer steps in all"""
    milestones: tuple[Step, ...] = (60_000,)
    """steps at which the learning rate is multiplied by gamma"""
    schedule: Literal["steps", "cosine", "plateau"] = "steps"
    """the learning rate drops at the milestones, as half a cosine down to 0, or when evaluations stop improving"""
    gamma: Fraction = 0.1
    """factor at each milestone or plateau"""
    plateau: Count = 5
    """evaluations without a better one that make a plateau"""
    warmup_steps: Step = 0
    """length of the warm-up; 0 has none"""
    warmup_factor: Fraction = 0.1
    """the share of the learning rate to start the warm-up at"""
    warmup: Literal["linear", "constant"] = "linear"
    """the learning rate grows over the warm-up, or stays at its start (He et al. 2015, §4.2, for 110 layers)"""
    batch_size: BatchSize = 1
    """images in a step, over all processes together (Faster R-CNN §3.1.3: one)"""
    accumulate: BatchSize = 1
    """parts that each process cuts its share of the batch into, to save memory"""
    momentum: Decay = 0.9
    """of SGD; adamw has its usual 0.9 and 0.999"""
    weight_decay: Annotated[float, Range(0, 10)] = 5e-4
    """of the optimizer (Faster R-CNN §3.1.3)"""
    decay_all: bool = False
    """decay normalisations and biases too (He et al. 2015 decay every parameter)"""
    clip_norm: Annotated[float, Range(0, 1_000_000_000)] = 0.0
    """the gradient's norm is clipped to this; 0 clips nothing"""
    ema: Decay = 0.0
    """decay of a moving average of the weights, which is evaluated and saved; 0 has none"""
    compile: bool = False
    """of a classifier, on a GPU: torch.compile, a minute at the start, then faster steps"""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """type of the multiplications; auto picks bf16 where the processor has it"""
    eval_every: Step = 5_000
    """steps between evaluations on the validation data; 0 evaluates only at the end"""
    save_every: Step = 1_000
    """steps between checkpoints to resume from"""
    log_every: Step = 20
    """steps between lines of the log"""
    patience: Counts = 0
    """stop after this many evaluations without a better one; 0 never stops early"""
