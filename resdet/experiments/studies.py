"""The studies: which networks are trained and compared, row by row as in the papers' tables and figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from resdet.config import ClsConfig, DetConfig
from resdet.errors import UserError

Settings = Mapping[str, Any]
"""Values of settings by their names, as of `with_settings`."""


@dataclass(frozen=True)
class Row:
    """A network of a study: how it is trained, and how it is tested."""

    recipe: str
    """Name or file of the recipe."""
    train: Settings = field(default_factory=dict)
    """What the training changes in the recipe."""
    test: Settings = field(default_factory=dict)
    """What the test changes in that; of detectors."""
    run: str = ""
    """Name of the run; rows of the same run share its training. Empty takes the row's label."""
    step: str = ""
    """Which step's detector of an alternating training; empty trains RPN and head together."""
    ensemble: tuple[str, ...] = ()
    """Runs of the same study whose detectors are tested together with this one."""
    panel: str = ""
    """Part of the figure in which a classifier is drawn."""
    paper: str = ""
    """What the papers have."""


@dataclass(frozen=True)
class Study:
    """Networks that are compared."""

    kind: type[DetConfig] | type[ClsConfig]
    """What the recipes are of."""
    rows: Mapping[str, Row]
    """By their labels."""
    paper: str = ""
    """Which of the papers' figures stand beside ours."""

    @property
    def recipes(self) -> list[str]:
        """Each recipe once."""
        return list(dict.fromkeys(row.recipe for row in self.rows.values()))

    def of_recipe(self, recipe: str) -> Study:
        """The same settings compared on another recipe. Raises UserError if the study compares recipes."""
        if len(self.recipes) > 1:
            raise UserError(
                "This study compares recipes: --recipe applies only to studies that compare settings of one recipe."
            )
        return replace(self, rows={label: replace(row, recipe=recipe) for label, row in self.rows.items()})


def _by_depth(**depths: tuple[int, ...]) -> dict[str, Row]:
    """Networks on CIFAR-10, plain and residual."""
    kinds = {"plain": ("plain-{}", "cifar10_plain{}"), "residual": ("ResNet-{}", "cifar10_r{}")}
    return {
        label.format(depth): Row(recipe.format(depth), panel=panel)
        for panel, (label, recipe) in kinds.items()
        for depth in depths[panel]
    }


def _resnet110(panel: str, **variants: Settings) -> dict[str, Row]:
    """Variants of ResNet-110 on CIFAR-10."""
    return {label: Row("cifar10_r110", settings, panel=panel) for label, settings in variants.items()}


def _bccd(*settings: Any, **options: Any) -> Row:
    """A detector of blood cells, the data that two cores can be trained on."""
    return Row("bccd_r18", *settings, **options)


REFINE = {"test.refine": True, "test.vote_iou": 0.5}
SCALES = {**REFINE, "test.scales": (200, 300, 400, 500)}
CONTEXT = {"model.context": True}

STUDIES: dict[str, Study] = {
    # He et al. 2015, Fig. 6
    "degradation": Study(ClsConfig, _by_depth(plain=(20, 56), residual=(20, 56))),
    "depth": Study(ClsConfig, _by_depth(plain=(20, 32, 44, 56), residual=(20, 32, 44, 56, 110))),
    # He et al. 2016, Table 1
    "shortcuts": Study(
        ClsConfig,
        _resnet110(
            "shortcuts of ResNet-110",
            **{
                "original": {},
                "constant scaling": {"model.joining": "scale"},
                "exclusive gating": {"model.joining": "exclusive_gate"},
                "shortcut-only gating": {"model.joining": "shortcut_gate"},
                "1×1 convolution": {"model.shortcut": "C"},
                "dropout": {"model.joining": "dropout"},
            },
        ),
    ),
    # He et al. 2016, Table 2
    "activations": Study(
        ClsConfig,
        _resnet110(
            "activations of ResNet-110",
            **{
                "original": {},
                "BN after addition": {"model.order": "norm_after"},
                "ReLU before addition": {"model.order": "relu_before"},
                "ReLU-only pre-activation": {"model.order": "relu_preactivation"},
                "full pre-activation": {"model.order": "full_preactivation"},
            },
        ),
    ),
    # R-CNN to Faster R-CNN: Fast R-CNN, Tables 1 and 4; Faster R-CNN, Tables 2, 3 and 5
    "lineage": Study(
        DetConfig,
        {
            "R-CNN": Row("lineage/rcnn_r18", paper="66.0"),
            "SPPnet": Row("lineage/sppnet_r18", paper="63.1"),
            "Fast R-CNN": Row("lineage/fast_rcnn_r18", paper="66.9"),
            "Faster R-CNN": Row("lineage/faster_rcnn_r18", paper="69.9"),
        },
        paper="mAP on VOC07 test with VGG-16, trained on VOC07",
    ),
    # He et al. 2015, Table 9
    "improvements": Study(
        DetConfig,
        {
            "baseline": _bccd(paper="48.4"),
            "+ box refinement": _bccd(test=REFINE, run="baseline", paper="49.9"),
            "+ context": _bccd(CONTEXT, REFINE, run="context", paper="51.1"),
            "+ several scales": _bccd(CONTEXT, SCALES, run="context", paper="53.8"),
            "another seed": _bccd({**CONTEXT, "seed": 1}, SCALES, run="context_1"),
            "a third seed": _bccd({**CONTEXT, "seed": 2}, SCALES, run="context_2"),
            "ensemble of the three": _bccd(
                CONTEXT, SCALES, run="context", ensemble=("context_1", "context_2"), paper="59.0"
            ),
        },
        paper="AP50 on COCO with ResNet-101: val, and test-dev for the ensemble",
    ),
    # Faster R-CNN, Table 2
    "proposals": Study(
        DetConfig,
        {
            f"{count} proposals": _bccd(
                test={"test.post_nms_topk": count, "test.pre_nms_topk": 6000}, run="baseline", paper=paper
            )
            for count, paper in ((10, ""), (30, ""), (100, "55.1"), (300, "56.8"), (1000, "56.3"))
        },
        paper="mAP on VOC07 test with ZF, trained on selective search",
    ),
    # Faster R-CNN, Table 8
    "anchors": Study(
        DetConfig,
        {
            "1 scale, 1 ratio": _bccd(
                {"model.anchor_scales": (64,), "model.anchor_ratios": (1,)}, paper="65.8, 66.7"
            ),
            "1 scale, 3 ratios": _bccd({"model.anchor_scales": (64,)}, paper="68.8, 67.9"),
            "3 scales, 1 ratio": _bccd({"model.anchor_ratios": (1,)}, paper="69.8"),
            "3 scales, 3 ratios": _bccd(paper="69.9"),
        },
        paper="mAP on VOC07 test with VGG-16, trained on VOC07",
    ),
    # Faster R-CNN, §3.2 and Table 3
    "sharing": Study(
        DetConfig,
        {
            "unshared": _bccd(run="alternating", step="2_head", paper="68.5"),
            "shared": _bccd(run="alternating", step="4_head", paper="69.9"),
            "trained together": _bccd(),
        },
        paper="mAP on VOC07 test with VGG-16, trained on VOC07",
    ),
    # Faster R-CNN, Table 9
    "lambda": Study(
        DetConfig,
        {
            f"λ = {10 * weight:g}": _bccd({"rpn.box_weight": weight}, paper=paper)
            for weight, paper in ((0.01, "67.2"), (0.1, "68.9"), (1.0, "69.9"), (10.0, "69.1"))
        },
        paper="mAP on VOC07 test with VGG-16, trained on VOC07",
    ),
}
