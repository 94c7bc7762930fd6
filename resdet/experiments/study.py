"""Train the networks of a study and compare them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from resdet.config import ClsConfig, DetConfig, with_settings
from resdet.experiments.studies import Study
from resdet.experiments.study_cls import compare_classifiers
from resdet.experiments.study_det import compare_detectors


def run_study(study: Study, recipes: Mapping[str, DetConfig | ClsConfig], folder: Path) -> str:
    """Train each network, or continue where its training stopped, and leave a table and pictures → the table.

    Args:
        study: what each row changes
        recipes: the config of each of `study.recipes`, with whatever settings all rows are to share
        folder: gets the run folders, the table and the pictures

    The table is complete on the main process. Raises UserError, before anything is trained, for a setting that a
    recipe cannot have.
    """
    configs: dict[str, Any] = {}  # all of `study.kind`
    for label, row in study.rows.items():
        configs[label] = with_settings(recipes[row.recipe], row.train)
        with_settings(configs[label], row.test)
    if study.kind is DetConfig:
        return compare_detectors(study, configs, folder)
    return compare_classifiers(study, configs, folder)
