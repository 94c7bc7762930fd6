"""Every setting of a training run, with its default, unit and source.

A recipe in configs/ is a Python file with ``config = DetConfig(...)`` or ``config = ClsConfig(...)`` that names
what differs from the defaults.
"""

from resdet.config.check import check_config
from resdet.config.cifar import cifar10
from resdet.config.classes import COCO_CLASSES, SHAPES_CLASSES, VOC_CLASSES
from resdet.config.classification import (
    ClsConfig,
    ClsDataConfig,
    ClsLossConfig,
    ClsModelConfig,
    ClsTestConfig,
)
from resdet.config.detection import (
    DataConfig,
    DataFormat,
    Depth,
    DetConfig,
    ModelConfig,
    ProposalMethod,
    RoIConfig,
    RPNConfig,
    TestConfig,
)
from resdet.config.detectron2 import detectron2_c4, detectron2_dc5, detectron2_fpn
from resdet.config.files import from_dict, load_config, override, to_dict, with_settings
from resdet.config.recipes import find_recipe, recipe_names
from resdet.config.solver import Precision, SolverConfig
from resdet.config.torchvision import torchvision_fpn

__all__ = [
    "COCO_CLASSES",
    "SHAPES_CLASSES",
    "VOC_CLASSES",
    "ClsConfig",
    "ClsDataConfig",
    "ClsLossConfig",
    "ClsModelConfig",
    "ClsTestConfig",
    "DataConfig",
    "DataFormat",
    "Depth",
    "DetConfig",
    "ModelConfig",
    "Precision",
    "ProposalMethod",
    "RPNConfig",
    "RoIConfig",
    "SolverConfig",
    "TestConfig",
    "check_config",
    "cifar10",
    "detectron2_c4",
    "detectron2_dc5",
    "detectron2_fpn",
    "find_recipe",
    "from_dict",
    "load_config",
    "override",
    "recipe_names",
    "to_dict",
    "torchvision_fpn",
    "with_settings",
]
