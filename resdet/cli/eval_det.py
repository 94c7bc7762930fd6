"""Evaluate a detector, or saved detections, on the validation data of a recipe.

    resdet eval-det shapes_r18 --weights runs/shapes_r18
    resdet eval-det shapes_r18 --weights runs/shapes_r18 --test.post-nms-topk 100
    resdet eval-det shapes_r18 --detections runs/shapes_r18/eval/coco_results.json

Prints VOC's and COCO's AP of each class, COCO's 12 numbers, how much AP fixing each kind of error would gain, and
the average recall of the proposals. Writes into runs/NAME/eval:

- metrics.json: all of these and the confusion matrix (rows are annotated classes, columns detected ones with a
  score of at least 0.25, background last; of more than 100 classes, a list of row, column and count);
- the detections as COCO's results JSON and, in voc/, as VOC's text files, where a class that cannot be part of a
  file's name is percent-encoded (Cabinet%2Fshelf). Either can be scored again with --detections, without a model,
  into runs/NAME/eval_saved;
- precision_recall.png, class_ap.png, confusion.png, errors.png, proposal_recall.png, and detections.png
  (annotations and detections side by side)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from resdet.cli.arguments import DetArguments
from resdet.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Arguments(DetArguments):
    """What to evaluate."""

    weights: str = ""
    """Run folder or weights file of the detector to evaluate, or a name that `resdet zoo` lists."""
    detections: Path | None = None
    """Saved detections to evaluate instead of a detector: COCO's results JSON, or a folder of VOC's text files."""

    def check(self) -> None:
        """Raise UserError unless there is one thing to evaluate."""
        super().check()
        if bool(self.weights) == (self.detections is not None):
            raise UserError(
                f"Pass what to evaluate: either --weights with a run folder, such as runs/{self.config.name}, or "
                "--detections with saved detections."
            )


def main(arguments: Arguments) -> None:
    """Evaluate, and print the tables."""
    from resdet.data.build import describe
    from resdet.data.check import objects_per_image
    from resdet.engine.runtime import is_main
    from resdet.evaluation.report import analysis_table, class_table, coco_table
    from resdet.experiments.evaluate import evaluate, evaluate_saved

    found = None
    if arguments.detections is None:
        found = evaluate(arguments.config, arguments.weights)
    elif is_main():
        found = evaluate_saved(arguments.config, arguments.detections)
    if found:
        print(describe(found.annotations, arguments.config.data.val))
        print(class_table(found.scores, found.annotations.classes))
        print(coco_table(found.scores.coco, len(found.annotations)))
        crowded = (objects_per_image(found.annotations) > arguments.config.test.max_detections).sum()
        if crowded and arguments.detections is None:
            print(
                f"{crowded:,} of {len(found.annotations):,} images have more objects than a detector finds: raise "
                f"--test.max-detections ({arguments.config.test.max_detections}), and --test.post-nms-topk with it."
            )
        print(analysis_table(found.analysis))
        print(f"Metrics, plots, pictures and results files are in {found.folder}.")
