"""What a learner shows and says of model and data: all of it changes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from layergroups.reports.schedule_picture import SchedulePreview
from layergroups.training.answers import answer
from layergroups.training.evaluation import evaluate, predict_all
from layergroups.training.loaders import (
    class_names,
    count_of,
    load_item,
    n_classes,
)
from layergroups.training.metrics import Meter
from layergroups.training.prediction import predictions
from layergroups.training.preview import preview_fit
from layergroups.training.schedules import Schedule
from layergroups.training.workbench import Workbench

if TYPE_CHECKING:
    from layergroups.data import OrderedBatches
    from layergroups.data.loaders import Paths


class Looking(Workbench):
    """The methods of a `Learner` that leave model, optimizer and random state as they were."""

    def validate(self, dl: Iterable[Any] | None = None) -> dict[str, float]:
        """Loss and metrics on the validation photos, or on other batches; changes nothing.

        Returns:
            "valid_loss" and each metric, by name.
        """
        batches: Iterable[Any] = self.dls.valid if dl is None else dl
        model = self.placed_model()
        with self.reporter.bar("validation", count_of(batches)) as bar:
            return evaluate(
                model,
                batches,
                loss_func=self.loss_func,
                task=self.task,
                meter=Meter(self.metrics, n_classes(self.dls)),
                accelerator=self.accelerator,
                processes=self.processes,
                advance=bar.advance,
            )

    def get_preds(
        self, dl: Iterable[Any] | None = None, with_loss: bool = False
    ) -> tuple[Tensor, Tensor | None] | tuple[Tensor, Tensor | None, Tensor]:
        """Probabilities, or numbers, of the validation photos or of other batches; changes nothing.

        Args:
            dl: batches (inputs, targets), or of inputs only, such as `dls.test_dl(paths)`.
            with_loss: also give the loss of each item.

        Returns:
            Probabilities (N, C) and targets (N,), in the order of the batches, on the CPU; targets
            are None where the batches have none. For several labels targets are (N, C), of 0 and
            1; for regression both are numbers (N, K). With `with_loss` also the losses (N,).
        """
        batches: Iterable[Any] = self.dls.valid if dl is None else dl
        model = self.placed_model()
        with self.reporter.bar("predictions", count_of(batches)) as bar:
            found, targets, losses = predict_all(
                model,
                batches,
                loss_func=self.loss_func,
                task=self.task,
                accelerator=self.accelerator,
                with_loss=with_loss,
                advance=bar.advance,
            )
        return (found, targets) if losses is None else (found, targets, losses)

    def predict(self, item: object) -> Any:
        """What is on one image: a path, a PIL image, an array or a tensor.

        Returns:
            A `Prediction` with label, index and probabilities. For several labels a
            `LabelsPrediction`: the labels whose probability is above `learn.thresh`, and the
            probabilities of all. For regression a `NumbersPrediction`, by name and as a tensor.
        """
        inputs = load_item(self.dls, item).unsqueeze(0)
        found, _, _ = predict_all(
            self.placed_model(),
            [inputs],
            loss_func=self.loss_func,
            task=self.task,
            accelerator=self.accelerator,
        )
        return answer(found[0], self.task, class_names(self.dls), self.thresh)

    def iter_preds(self, photos: Paths | OrderedBatches) -> Iterator[tuple[Path, Any]]:
        """Each photo of a folder with what `predict` says, as they come; memory stays bounded.

        Photos are checked first, then go through in batches of which nothing is kept; workers
        prepare the next ones meanwhile. Between two photos the model is as it was.

        Args:
            photos: an image, a list of images, a folder, or `dls.test_dl(paths)`, which may have
                another batch size.

        Raises:
            DataError: there are no images.
            BrokenImagesError: images are broken, and the data are to stop at them.
        """
        return predictions(self, photos)

    def plot_schedule(
        self,
        fit: str | Schedule = "fit_one_cycle",
        *words: Any,
        path: str | Path | None = None,
        **named: Any,
    ) -> SchedulePreview:
        """The rates and the momentum of all layer groups over a fit, before it runs.

        It takes the words of the fit itself:

            learn.plot_schedule("fit_one_cycle", 3, slice(1e-5, 1e-3), path="rates.png")
            learn.plot_schedule("fine_tune", 4, 2e-3)
            learn.plot_schedule(OneCycle(div=10), epochs=3, lr=1e-3)

        Args:
            fit: "fit", "fit_one_cycle", "fit_flat_cos", "fine_tune" or "thaw"; or a schedule.
            *words: arguments of that fit.
            path: write the picture here, .png, .svg or .pdf.
            **named: arguments of that fit.

        Returns:
            The rates as data; `print` shows a table, a notebook the picture, `save` writes it.

        Raises:
            TrainingError: there is no such fit, or it does not take these arguments.
            LayerGroupsError: the picture cannot be written.
        """
        made = preview_fit(self, fit, words, named)
        if path is not None:
            made.save(path)
        return made
