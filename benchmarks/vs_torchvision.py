"""Train resdet's detector and torchvision's side by side on the same batches: mAP, seconds a step and an image.

    python benchmarks/vs_torchvision.py configs/bccd_r18.py --solver.steps 1000

torchvision's FasterRCNN is assembled on its own ResNet of the same depth, split after conv4 or with a feature
pyramid like ours, with the recipe's anchors, thresholds and counts; it starts from the same weights of conv1 to
conv5. Each batch is given to one network, then to the other, through the same optimizer step. For recipes that
train from scratch (norm "sync_batch"). Then images of the validation split are given to both one by one, and to
what resdet makes of its network for `Detector`. Prints a table; all figures go into runs/NAME_vs_torchvision.json,
the curves into a .png beside it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torchvision
from matplotlib.figure import Figure
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN as TorchvisionFasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import MultiScaleRoIAlign

from resdet.config import DetConfig, ModelConfig, load_config
from resdet.data.annotations import Annotations
from resdet.data.build import read_annotations, training_batches, validation_batches
from resdet.engine import runtime as runtimes
from resdet.engine.loop import train_step
from resdet.engine.solver import build_optimizer, lr_at
from resdet.evaluation.predict import Detecting, to_device
from resdet.experiments.evaluate import score
from resdet.inference.optimize import OptimizedRCNN
from resdet.models.build import build_detector
from resdet.models.faster_rcnn import FasterRCNN
from resdet.models.layers.pixel_norm import STYLES
from resdet.models.weights.torchvision import from_torchvision
from resdet.seeds import Purpose, seed_everything
from resdet.types import Detections, Losses, Target

IMAGES, WARMUP = 20, 2


class Torchvision(nn.Module):
    """torchvision's detector behind resdet's interface: uint8 batches and 0-based labels in, `Losses` out."""

    def __init__(self, config: DetConfig, num_classes: int) -> None:
        super().__init__()
        model, rpn, roi, test = config.model, config.rpn, config.roi, config.test
        resnet = getattr(torchvision.models, f"resnet{model.depth}")(weights=None)
        first = resnet.layer4[0]
        of_c4 = model.features == "c4"
        for layer in (first.conv1, first.downsample[0]) if of_c4 and model.conv5_stride == 1 else ():
            layer.stride = (1, 1)
        shared = c4(config, resnet) if of_c4 else fpn(config, resnet)
        channels = 512 * resnet.layer1[0].expansion if of_c4 else model.fc_dims[-1]
        style = STYLES[model.style]
        self.resnet = [resnet]  # in a list, so that its layers are not registered twice
        self.network = TorchvisionFasterRCNN(
            **shared,
            box_predictor=FastRCNNPredictor(channels, num_classes + 1),
            image_mean=[m / 255 for m in style.mean],
            image_std=[s / 255 for s in style.std],
            rpn_fg_iou_thresh=rpn.foreground_iou,
            rpn_bg_iou_thresh=rpn.background_iou,
            rpn_batch_size_per_image=rpn.batch_size_per_image,
            rpn_positive_fraction=rpn.foreground_fraction,
            rpn_nms_thresh=rpn.nms_iou,
            rpn_pre_nms_top_n_train=rpn.pre_nms_topk,
            rpn_post_nms_top_n_train=rpn.post_nms_topk,
            rpn_pre_nms_top_n_test=test.pre_nms_topk,
            rpn_post_nms_top_n_test=test.post_nms_topk,
            box_batch_size_per_image=roi.batch_size_per_image,
            box_positive_fraction=roi.foreground_fraction,
            box_fg_iou_thresh=roi.foreground_iou,
            box_bg_iou_thresh=roi.background_iou[1],
            box_score_thresh=test.min_score,
            box_nms_thresh=test.nms_iou,
            box_detections_per_img=test.max_detections,
            min_size=config.data.test_short_side,  # its own resize, which the loader has done, changes nothing
            max_size=config.data.max_side,
            _skip_resize=True,
        )

    def copy_resnet_from(self, ours: FasterRCNN) -> None:
        """Start conv1 to conv5_x from the weights of resdet's detector, all of which must find their place."""
        places = from_torchvision(self.resnet[0].state_dict())  # our names → torchvision's tensors
        for part, module in ours.classifier_parts().items():
            for name, tensor in module.state_dict().items():
                if not name.endswith("num_batches_tracked"):
                    places[f"{part}.{name}"].copy_(tensor)

    def forward(
        self, images: Tensor, sizes: Tensor, targets: list[Target] | None = None, proposals: None = None
    ) -> Losses | list[Detections]:
        """As `resdet.models.faster_rcnn.FasterRCNN.forward`, in the mode of the module."""
        cut = [image[:, :h, :w].float() / 255 for image, (h, w) in zip(images, sizes.tolist(), strict=True)]
        if targets is None:
            found = self.network(cut)
            return [Detections(d["boxes"].float(), d["scores"].float(), d["labels"] - 1) for d in found]
        losses = self.network(cut, [{"boxes": t.boxes, "labels": t.labels + 1} for t in targets])
        names = ("loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg")
        return Losses(*(losses[name] for name in names))


def c4(config: DetConfig, resnet: Any) -> dict[str, Any]:
    """The parts of a detector whose backbone ends with conv4."""
    model = config.model
    backbone = nn.Sequential(
        *(resnet.conv1, resnet.bn1, resnet.relu, resnet.maxpool, resnet.layer1, resnet.layer2, resnet.layer3)
    )
    backbone.out_channels = channels = 256 * resnet.layer1[0].expansion
    return {
        "backbone": backbone,
        **rpn_of(model, channels, (model.anchor_scales,)),
        "box_roi_pool": MultiScaleRoIAlign(["0"], model.pool_size, model.sampling_ratio),
        "box_head": nn.Sequential(resnet.layer4, nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    }


def fpn(config: DetConfig, resnet: Any) -> dict[str, Any]:
    """The parts of a detector on a feature pyramid."""
    model = config.model
    channels = [64 * 2**n * resnet.layer1[0].expansion for n in range(4)]
    layers = {f"layer{n + 1}": str(n) for n in range(4)}
    norm = nn.BatchNorm2d if model.head_norm == "sync_batch" else None
    backbone = BackboneWithFPN(resnet, layers, channels, model.fpn_channels, norm_layer=norm)
    share = len(model.anchor_scales) // 5
    scales = tuple(model.anchor_scales[n * share : (n + 1) * share] for n in range(5))
    return {
        "backbone": backbone,
        **rpn_of(model, model.fpn_channels, scales),
        "box_roi_pool": MultiScaleRoIAlign(["0", "1", "2", "3"], model.pool_size, model.sampling_ratio),
        "box_head": TwoMLPHead(model.fpn_channels * model.pool_size**2, model.fc_dims[0]),
    }


def rpn_of(model: ModelConfig, channels: int, scales: tuple[tuple[float, ...], ...]) -> dict[str, Any]:
    """Anchors and RPN, whose weights start as ours do."""
    anchors = AnchorGenerator(scales, (model.anchor_ratios,) * len(scales))
    head = RPNHead(channels, anchors.num_anchors_per_location()[0], model.rpn_depth)
    head.conv[0][0] = nn.Conv2d(channels, model.rpn_channels, 3, padding=1)
    head.cls_logits = nn.Conv2d(model.rpn_channels, head.cls_logits.out_channels, 1)
    head.bbox_pred = nn.Conv2d(model.rpn_channels, head.bbox_pred.out_channels, 1)
    for layer in head.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return {"rpn_anchor_generator": anchors, "rpn_head": head}


def main() -> None:
    """Train both and print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="a file, or the name of a recipe in configs/")
    parser.add_argument("settings", nargs=argparse.REMAINDER, help="that differ from the recipe's")
    options = parser.parse_args()
    config = load_config(options.recipe, options.settings)
    runtime = runtimes.start(config.device, config.solver.precision)
    training = read_annotations(config.data, config.data.train, config.data.classes)
    validation = read_annotations(config.data, config.data.val, training.classes)
    seed_everything(config.seed, Purpose.WEIGHTS)
    ours = build_detector(config, len(training.classes))
    theirs = Torchvision(config, len(training.classes))
    theirs.copy_resnet_from(ours)
    networks: dict[str, FasterRCNN | Torchvision] = {"resdet": ours, "torchvision": theirs}
    optimizers: dict[str, torch.optim.Optimizer] = {}
    seconds: dict[str, list[float]] = {name: [] for name in networks}
    losses: dict[str, list[dict[str, float]]] = {name: [] for name in networks}
    curves: list[dict] = []
    for name, network in networks.items():
        network.to(runtime.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimizers[name] = build_optimizer(network, config.solver)
    scaler = torch.amp.GradScaler(runtime.device.type, enabled=runtime.dtype == torch.float16)

    every = config.solver.log_every or config.solver.steps
    for step, batch in enumerate(training_batches(training, config, runtime, 0), 1):
        for name in networks if step % 2 else reversed(networks):
            for group in optimizers[name].param_groups:
                group["lr"] = lr_at(step - 1, config.solver)
            seed_everything(config.seed, Purpose.STEP, step, 0)
            networks[name].train()
            started = time.perf_counter()
            terms = train_step(
                network=networks[name],
                parts=[batch],
                losses=lambda network, part: network(*to_device(part, runtime.device)),
                optimizer=optimizers[name],
                scaler=scaler,
                runtime=runtime,
                clip_norm=config.solver.clip_norm,
            )
            seconds[name].append(time.perf_counter() - started)
            losses[name].append(terms)
        if due(step, every, config.solver.steps):
            for name in networks:
                means = {key: statistics.fmean(row[key] for row in losses[name][-every:]) for key in terms}
                text = "  ".join(f"{key} {value:.4f}" for key, value in means.items())
                print(
                    f"{step} {name:12} {statistics.median(seconds[name][-every:]):.3f} s/step  {text}", flush=True
                )
        if due(step, config.solver.eval_every, config.solver.steps):
            for name, network in networks.items():
                figures = score(network, validation, config, runtime)
                figures = {key: figures[key] for key in ("map07", "map", "ap")}
                curves.append({"step": step, "network": name, **figures})
                print(curves[-1], flush=True)
    report(seconds, curves, Path(config.runs) / f"{config.name}_vs_torchvision.json")
    detectors: dict[str, Detecting] = {**networks, "Detector": OptimizedRCNN(ours, runtime)}
    for name, of_images in image_seconds(detectors, validation, config, runtime).items():
        print(f"{name:12} {statistics.median(of_images):.3f} s/image (median)")


@torch.no_grad()
def image_seconds(
    detectors: dict[str, Detecting], validation: Annotations, config: DetConfig, runtime: runtimes.Runtime
) -> dict[str, list[float]]:
    """The seconds that each detector takes for each of some images, in turns; the first ones warm them up."""
    one = replace(config, test=replace(config.test, batch_size=1))
    seconds: dict[str, list[float]] = {name: [] for name in detectors}
    for batch in islice(validation_batches(validation, one, runtime), IMAGES + WARMUP):
        images, sizes, *_ = to_device(batch, runtime.device, with_targets=False)
        for name, detector in detectors.items():
            detector.eval()
            started = time.perf_counter()
            with runtime.autocast():
                detector(images, sizes)
            seconds[name].append(time.perf_counter() - started)
    return {name: of_images[WARMUP:] for name, of_images in seconds.items()}


def due(step: int, every: int, steps: int) -> bool:
    """Whether something is to be done after this step: it is after the last one, and 0 means only then."""
    return step == steps or (every > 0 and step % every == 0)


def report(seconds: dict[str, list[float]], curves: list[dict], path: Path) -> None:
    """Print the final figures, write all of them, and draw both curves."""
    ratios = [a / b for a, b in zip(seconds["torchvision"], seconds["resdet"], strict=True)]
    for name, values in seconds.items():
        last = next(row for row in reversed(curves) if row["network"] == name)
        median = statistics.median(values)
        figures = "  ".join(f"{key} {last[key]:.4f}" for key in ("map07", "map", "ap"))
        print(f"{name:12} {median:.3f} s/step (median)  {figures}")
    print(f"torchvision / resdet, step by step: {statistics.median(ratios):.2f} (median)")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"seconds": seconds, "curves": curves}))
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for name in seconds:
        rows = [row for row in curves if row["network"] == name]
        axes.plot([row["step"] for row in rows], [row["map07"] for row in rows], ".-", label=name)
    axes.set(xlabel="step", ylabel="mAP, VOC2007 11 points", title=path.stem, ylim=(0, 1))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(path.with_suffix(".png"), dpi=100)


if __name__ == "__main__":
    main()
