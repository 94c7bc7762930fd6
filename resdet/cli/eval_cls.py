"""Evaluate classifiers, alone and as an ensemble, on the validation images of a recipe.

    resdet eval-cls cifar10_r20 --weights runs/cifar10_r20
    resdet eval-cls imagenet_r50 --weights runs/imagenet_r50 --test.views 10-crop
    resdet eval-cls imagenet_r50 --weights RUN1 RUN2 --test.views dense

Prints top-1 and top-5 errors, with several weights also those of their ensemble, and writes them into
runs/NAME/eval_cls/metrics.json.
"""

from __future__ import annotations

from dataclasses import dataclass

from resdet.cli.arguments import ClsArguments
from resdet.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Arguments(ClsArguments):
    """What to evaluate."""

    weights: tuple[str, ...] = ()
    """Run folders or weights files of the classifiers to evaluate."""

    def check(self) -> None:
        """Raise UserError if there is nothing to evaluate."""
        super().check()
        if not self.weights:
            raise UserError(
                f"Pass what to evaluate: --weights with one or more run folders, such as runs/{self.config.name}."
            )


def main(arguments: Arguments) -> None:
    """Evaluate, and print the errors."""
    from resdet.data.build_cls import describe_images
    from resdet.engine.runtime import is_main
    from resdet.experiments.evaluate_cls import evaluate_classifiers

    found = evaluate_classifiers(arguments.config, arguments.weights)
    if is_main():
        print(describe_images(found.images, "validation"))
        for name, (top1, top5) in found.accuracies.items():
            print(f"{name}: top-1 error {100 - 100 * top1:.2f} %, top-5 error {100 - 100 * top5:.2f} %")
        print(f"The metrics are in {found.path}.")
