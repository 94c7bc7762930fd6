"""Train a detector or a classifier: from a config to a run folder."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from resdet.config import ClsConfig, DetConfig
from resdet.config.resume import check_resume
from resdet.engine import runtime as runtimes
from resdet.engine.loop import fit
from resdet.experiments.classification import ClassificationTask, classification_task
from resdet.experiments.detection import DetectionTask, detection_task
from resdet.experiments.runs import check_start, run_folder, saved_config

logger = logging.getLogger(__name__)


def train(config: DetConfig | ClsConfig, resume: bool = False) -> Path:
    """Train as `config` says and leave the run folder, with the training curve as a picture → that folder.

    Args:
        config: of a detector or of a classifier; its run folder is `runs`/`name`
        resume: continue where the run in that folder stopped

    Raises UserError for what cannot work, and if the training diverges.
    """
    folder, runtime = run_folder(config), runtimes.start(config.device, config.solver.precision)
    check_start(config, runtime, resume)
    task: DetectionTask | ClassificationTask
    if isinstance(config, DetConfig):
        task = detection_task(config, runtime, resume)
    else:
        task = classification_task(config, runtime, resume)
    fit(task, config.solver, runtime, folder, resume)
    task.finish(folder)
    if (folder / "model.safetensors").is_file():
        logger.info(f"Done. The best model is {folder}/model.safetensors, the training curve {folder}/curves.png.")
    else:
        logger.info(f"Done. {folder} has no model.safetensors: its last weights are {folder}/last.safetensors.")
    return runtimes.from_main(lambda: folder)  # also waits until the main process has written the last file


def train_or_resume(config: DetConfig | ClsConfig) -> Path:
    """Start the run of a larger experiment, or continue it, or find that it is done → its folder.

    Raises UserError if the run was started with settings that cannot change.
    """
    folder = run_folder(config)
    resume = runtimes.from_main((folder / "state.pt").exists)
    if resume:
        saved = replace(saved_config(folder, type(config)), runs=config.runs, name=config.name)
        check_resume(saved, config, folder)
    return train(config, resume)
