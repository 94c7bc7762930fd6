"""Publish a detector on Hugging Face's hub: its weights, a model card, its recipe and pictures."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from resdet.config import DetConfig
from resdet.data.suggest import to_source
from resdet.errors import UserError, reason
from resdet.experiments.convert_weights import backbone_name
from resdet.models.weights.hub import FILE, PREFIX, hub
from resdet.models.weights.load import load_model
from resdet.models.weights.resdet import ModelFile, save_model

PICTURES = {"eval/detections.png": "Annotated objects and detections.", "curves.png": "The training run."}
METRICS = {"map07": "VOC07 mAP", "map": "VOC mAP, area", "ap": "COCO AP", "ap50": "AP50", "ap75": "AP75"}
logger = logging.getLogger(__name__)


def push(source: str, repository: str, private: bool) -> None:
    """Upload the detector `source` to `repository` (USER/NAME), which is made if need be, and report where it is.

    Raises UserError if there is no such detector, or if the hub does not take it.
    """
    file = load_model(source)
    api = hub().HfApi()
    with TemporaryDirectory() as folder:
        write_folder(Path(folder), file, Path(source), repository)
        try:
            api.create_repo(repository, private=private, exist_ok=True)
            url = api.upload_folder(repo_id=repository, folder_path=folder, commit_message="Upload by resdet")
        except (OSError, ValueError) as error:
            raise UserError(
                f"Cannot upload to {repository} ({reason(error)}): check the name and the connection, and sign in "
                "with `hf auth login`."
            ) from error
    logger.info(f"{url}: load it with --weights {PREFIX}{repository}.")


def write_folder(folder: Path, file: ModelFile[DetConfig], run: Path, repository: str) -> None:
    """Write what is uploaded: weights, card, recipe, and the pictures that the run folder has."""
    save_model(folder / FILE, file)
    (folder / "recipe.py").write_text(to_source(file.config), encoding="utf-8")
    pictures = {}
    for name, caption in PICTURES.items():
        if (run / name).is_file():
            shutil.copy(run / name, folder)
            pictures[Path(name).name] = caption
    (folder / "README.md").write_text(card(file, figures(run), pictures, repository), encoding="utf-8")


def figures(run: Path) -> dict[str, float]:
    """The metrics of the run's last report, or of its best checkpoint; none of a file that has no run."""
    for path in (run / "eval/metrics.json", run / "metrics.json"):
        if path.is_file():
            found = json.loads(path.read_text(encoding="utf-8"))
            return {name: found[key] for key, name in METRICS.items() if isinstance(found.get(key), float)}
    return {}


def card(file: ModelFile[DetConfig], metrics: dict[str, float], pictures: dict[str, str], repository: str) -> str:
    """The model card: what the detector finds, how well, how it was trained, and how to use it."""
    config = file.config
    lines = [
        *("---", "library_name: resdet", "pipeline_tag: object-detection", "tags:", "- faster-rcnn", "---", ""),
        f"# {config.name or repository.partition('/')[2]}",
        "",
        f"A Faster R-CNN, {backbone_name(config.model)}, that finds {len(file.classes)} classes: "
        f"{', '.join(file.classes)}.",
        "",
        *("    import resdet", "", f'    detector = resdet.Detector.load("{PREFIX}{repository}")'),
        *('    boxes, scores, labels, names = detector("photo.jpg")', ""),
    ]
    if metrics:
        lines += [f"| {' | '.join(metrics)} |", f"|{'---|' * len(metrics)}"]
        lines += [f"| {' | '.join(f'{100 * value:.1f}' for value in metrics.values())} |", ""]
        lines += [f"On the validation images of {config.data.source or config.data.root}.", ""]
    for name, caption in pictures.items():
        lines += [f"![{caption}]({name})", ""]
    lines += [f"It was trained for {file.step:,} steps by this recipe (`recipe.py`):", ""]
    lines += [f"    {line}".rstrip() for line in to_source(config).splitlines()]
    return "\n".join(lines) + "\n"
