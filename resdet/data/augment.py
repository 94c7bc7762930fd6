"""Random changes to training images before they are resized: presets, and pipelines that albumentations saved.

G boxes of an image: its objects, and the proposals that were made before.
"""

from __future__ import annotations

import json
import os
import random
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
import yaml

from resdet.data.images import ImageError
from resdet.errors import UserError, reason
from resdet.types import Target

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # its import asks the network for a newer version
import albumentations as A
from pydantic import ValidationError

Step: TypeAlias = A.BasicTransform | A.BaseCompose
Span: TypeAlias = tuple[float, float]

MIN_VISIBLE = 0.3  # share of a box's area; of one that is cut further, too little is left to be learned
MIN_SIDE = 2  # pixels of a box that was cut
UNCUT = 0.999  # but for rounding
NUMBER, VISIBLE = 4, 5  # columns after a box's corners
COMPOSITIONS = (A.Compose, A.Sequential, A.OneOf, A.SomeOf, A.RandomOrder, A.OneOrOther)
TRANSFORMS = (A.ImageOnlyTransform, A.DualTransform)
MEAN_COLOR = (124, 116, 104)  # ImageNet's: about zero after normalisation, as a batch's padding is


def light() -> list[Step]:
    """Other colours; a little larger, smaller or beside; a little worse."""
    return [
        A.ColorJitter((0.8, 1.2), (0.8, 1.2), (0.8, 1.2), (-0.02, 0.02), p=0.5),
        A.Affine((0.9, 1.1), (-0.05, 0.05), keep_ratio=True, fill=MEAN_COLOR, p=0.5),
        worse(blur=(0.3, 1), noise=(0.01, 0.04), quality=(60, 95), p=0.2),
    ]


def strong() -> list[Step]:
    """Very other colours; a part, or much larger or smaller; worse.

    No holes: albumentations' dropouts round all boxes of an image down to whole pixels, often by one too many.
    """
    scale = A.Affine((0.5, 1.5), (-0.1, 0.1), balanced_scale=True, keep_ratio=True, fill=MEAN_COLOR, p=1)
    crops = [A.BBoxSafeRandomCrop(erosion_rate=0.3, p=1), A.RandomCropFromBorders(0.3, 0.3, 0.3, 0.3, p=1)]
    return [
        A.ColorJitter((0.6, 1.4), (0.6, 1.4), (0.5, 1.5), (-0.05, 0.05), p=0.8),
        A.ToGray(p=0.05),
        A.OneOf([*crops, scale], p=0.8),
        worse(blur=(0.5, 2), noise=(0.02, 0.1), quality=(30, 90), p=0.3),
    ]


def worse(blur: Span, noise: Span, quality: tuple[int, int], p: float) -> Step:
    """Blur of this sigma in pixels, noise of this share of the range, or a JPEG of this quality."""
    return A.OneOf(
        [A.GaussianBlur(sigma_limit=blur), A.GaussNoise(noise), A.ImageCompression(quality_range=quality)], p=p
    )


PRESETS = {"light": light, "strong": strong}


class Augmentation:
    """A pipeline of albumentations with one rule for the boxes that it cuts.

    A box is clipped to the image. It is kept if it was not cut, or if 30 % of its area are left and it has 2 pixels
    or more on each side; what several steps leave is multiplied. Dropouts remove boxes of which they hide more than
    70 %, and shrink others to what can be seen.

    Args:
        source: where the pipeline comes from, for errors
    """

    def __init__(self, steps: Sequence[Step], source: str) -> None:
        self.source = source
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that no step may move a box
            self.pipeline = A.Compose(
                list(steps),
                bbox_params=A.BboxParams(format="pascal_voc", min_visibility=MIN_VISIBLE),
                additional_targets={"proposals": "bboxes"},  # which go along, but no crop is chosen by them
            )
        self.pipeline.processors["bboxes"].filter = keep_visible

    def __call__(self, image: np.ndarray, target: Target, seed: int) -> tuple[np.ndarray, Target]:
        """(H, W, 3) uint8 and its target, in which proposals have the label −1 → the same of another size.

        A pure function of its arguments. Raises ImageError if the pipeline cannot be applied to such an image.
        """
        boxes, labels = target.boxes.double().numpy(), target.labels.numpy()
        rows = np.column_stack([boxes, np.arange(len(boxes)), np.ones(len(boxes))])  # (G, 6)
        solid = (boxes[:, 2:] > boxes[:, :2]).all(1)
        seed_pipeline(self.pipeline, seed, 0)
        objects, proposals = rows[solid & (labels >= 0)], rows[solid & (labels < 0)]
        try:
            with np.errstate(invalid="ignore"):  # a hole in a box of less than a pixel
                result = self.pipeline(image=image, bboxes=objects, proposals=proposals)
            if not _is_image(result["image"]):
                raise ValueError("it gives something else than an image")
        except Exception as error:  # albumentations and OpenCV raise many kinds
            height, width, _ = image.shape
            raise ImageError(
                f"{self.source} cannot be applied to an image of {width}×{height} pixels ({reason(error)}): "
                "change the pipeline."
            ) from error
        left = np.concatenate([np.reshape(result[name], (-1, 6)) for name in ("bboxes", "proposals")])
        left = left[np.argsort(left[:, NUMBER], kind="stable")]
        kept = torch.from_numpy(left[:, NUMBER].astype(np.int64))
        changed = Target(
            torch.from_numpy(left[:, :4].astype(np.float32)), target.labels[kept], target.difficult[kept]
        )
        return result["image"], changed

    def check(self, sizes: np.ndarray) -> None:
        """Try the pipeline on the smallest of images with these (M, 2) heights and widths.

        Raises UserError if they are too small for it; images of a few pixels are for the training to skip.
        """
        sizes = np.maximum(sizes, 8)
        nothing = Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.bool))
        for height, width in {tuple(sizes[place].tolist()) for place in sizes.argmin(0)}:
            for seed in range(8):
                self(np.zeros((height, width, 3), np.uint8), nothing, seed)


def keep_visible(rows: np.ndarray, shape: Mapping[str, int]) -> np.ndarray:
    """Clip boxes to the image, and drop those of which too little is left.

    Args:
        rows: (G, 6): corners in shares of the image's sides, number, share of the area that was visible before
        shape: "height" and "width" of the image

    Returns:
        (G', 6)
    """
    clipped = rows.copy()
    clipped[:, :4] = rows[:, :4].clip(0, 1)
    before, after = (part[:, 2:4] - part[:, :2] for part in (rows, clipped))  # (G, 2) width, height
    clipped[:, VISIBLE] *= after.prod(1) / np.maximum(before.prod(1), 1e-12)
    large = (after * (shape["width"], shape["height"]) >= MIN_SIDE).all(1)
    return clipped[(clipped[:, VISIBLE] > UNCUT) | (large & (clipped[:, VISIBLE] >= MIN_VISIBLE))]


def seed_pipeline(pipeline: A.Compose, seed: int, use: int) -> None:
    """Let all that `pipeline` draws follow from `seed`; pipelines of another `use` draw something else.

    All steps share a generator. Compose.set_random_seed would give each step its own with the same seed, and two
    steps with a probability of 0.5 would change the same images.
    """
    sequence = np.random.SeedSequence(seed, spawn_key=(use,))
    state = random.Random(int(sequence.generate_state(1, np.uint64)[0]))
    pipeline.set_random_state(np.random.default_rng(sequence), state)


# Where a pipeline comes from


def read_augmentation(setting: str) -> Augmentation | None:
    """What `data.augmentation` names: nothing, a preset, or a file. Raises UserError if it is none of these."""
    if setting == "none":
        return None
    if setting in PRESETS:
        return Augmentation(PRESETS[setting](), f"data.augmentation {setting}")
    path = Path(setting)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that one transform is a special case of another
        return Augmentation([_step(_read(path), path)], setting)


def _read(path: Path) -> object:
    """The outermost step of the file that `albumentations.save` wrote, in its saved form."""
    expected = "set data.augmentation to none, light, strong, or a file that albumentations.save wrote"
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"The augmentation {path} cannot be read ({reason(error)}): {expected}.") from error
    try:
        content = json.loads(text) if text.lstrip().startswith("{") else yaml.safe_load(text)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise UserError(f"{path} is neither JSON nor YAML ({reason(error)}): {expected}.") from error
    if not isinstance(content, dict) or "transform" not in content:
        raise UserError(f"{path} is not a pipeline of albumentations: {expected}.")
    return content["transform"]


def _step(saved: Any, path: Path) -> Step:
    """A transform, or a composition of transforms, of albumentations' own, and nothing else.

    Of a composition only what chooses among its steps is read: boxes are treated in one way everywhere.
    """
    name = saved.get("__class_fullname__") if isinstance(saved, dict) else None
    if not isinstance(name, str):
        raise UserError(f"{path} has a step without a class: write it again with albumentations.save.")
    kind = getattr(A, name.removeprefix("albumentations.").rpartition(".")[2], None)
    try:
        if kind in COMPOSITIONS:
            chosen = {key: saved[key] for key in ("p", "n", "replace") if key in saved}
            return kind(transforms=[_step(part, path) for part in saved["transforms"]], **chosen)
        if isinstance(kind, type) and issubclass(kind, TRANSFORMS) and kind is not A.Lambda:
            settings = {key: value for key, value in saved.items() if key != "__class_fullname__"}
            step = kind(**settings)
            if unknown := getattr(step, "invalid_args", ()):  # which albumentations leaves out with a warning
                raise ValueError(f"it has no setting {unknown[0]!r}")
            if _suits(step) and _gives_images(kind(**settings | {"p": 1})):
                return step
    except UserError:
        raise
    except Exception as error:  # albumentations and pydantic raise many kinds
        raise UserError(f"{path} has a step {name} that cannot be used: {_why(error)}.") from error
    raise UserError(f"{path} has a step {name}, which does not turn an image and boxes into such: leave it out.")


def _suits(transform: A.BasicTransform) -> bool:
    """Whether it takes an image along with its boxes, and asks for nothing else."""
    moves = isinstance(transform, A.DualTransform)
    takes = {"image", "bboxes"} if moves else {"image"}
    return takes <= transform.available_keys and set(transform.targets_as_params) <= takes


def _gives_images(transform: A.BasicTransform) -> bool:
    """Whether it turns images into images; one that a small image is too small for is taken to do so."""
    try:
        return _is_image(transform(image=np.zeros((64, 64, 3), np.uint8), bboxes=np.zeros((0, 6)))["image"])
    except NotImplementedError:  # a base class
        return False
    except Exception:
        return True


def _is_image(value: Any) -> bool:
    """Whether it is (H, W, 3) uint8."""
    return isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.shape[2:] == (3,)


def _why(error: Exception) -> str:
    """What is wrong with a transform's settings: pydantic's first complaint, or the error itself."""
    if not isinstance(error.__cause__, ValidationError):
        return reason(error)
    first = error.__cause__.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
