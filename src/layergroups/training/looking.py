"""What a learner shows and says of model and data: all of it changes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from layergroups.reports.heat_map import HeatMap, heat_map
from layergroups.reports.results import results_picture
from layergroups.reports.run_report import RunReport, report_on
from layergroups.reports.summary import ModelSummary, model_summary
from layergroups.training.answers import answer
from layergroups.training.evaluation import evaluate, predict_all
from layergroups.training.loaders import (
    class_names,
    count_of,
    example_of,
    load_item,
    n_classes,
)
from layergroups.training.metrics import Meter
from layergroups.training.prediction import predictions
from layergroups.training.tta import averaged_predictions
from layergroups.training.workbench import Workbench

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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

    def tta(
        self, dl: Iterable[Any] | None = None, n: int = 4, beta: float = 0.25
    ) -> tuple[Tensor, Tensor | None]:
        """Probabilities averaged over views of each photo, varied as for training.

        As in fastai, but the views depend on the seed of the data alone, so that each call gives
        the same; it changes nothing.

        Args:
            dl: `dls.test_dl(paths)`, or None for the validation photos.
            n: how many views.
            beta: weight of the photos as they are; the views together have the rest.

        Returns:
            As `get_preds`.

        Raises:
            TrainingError: the data are not varied, so that there are no views.
        """
        return averaged_predictions(self, dl, n, beta)

    # What it looks like

    def show_results(
        self, path: str | Path | None = None, n: int = 9, dl: Iterable[Any] | None = None
    ) -> Path | Figure:
        """Draw some validation photos with what is and what is predicted; changes nothing.

        Args:
            path: a file ending with .png, .svg or .pdf; None gives the figure of matplotlib.
            n: how many; the seed of the data says which.
            dl: other batches, with or without targets.
        """
        return results_picture(self, path, n, dl)

    def grad_cam(
        self, item: object, target: int | str | None = None, path: str | Path | None = None
    ) -> HeatMap:
        """Which parts of one image spoke for a class; changes nothing. See `reports.grad_cam`.

        Args:
            item: a path, a PIL image, an array or a tensor.
            target: the class, by name or number; None for the one that is predicted.
            path: also draw it to a file ending with .png, .svg or .pdf.

        Raises:
            AnatomyError: no part of the network knows where things are.
            LayerGroupsError: there is no such class, or the file cannot be written.
        """
        found = heat_map(self, load_item(self.dls, item), target)
        if path is not None:
            found.plot(path)
        return found

    def summary(self, detail: str = "blocks") -> ModelSummary:
        """Blocks or layers with outputs, parameters, what trains, groups; changes nothing.

        Args:
            detail: "blocks", or "layers" for a row for each layer.
        """
        return model_summary(
            self.layer_groups,
            detail=detail,
            optimizer=self.opt,
            opt_func=self.opt_func,
            loss_func=self.loss_func,
            example_input=example_of(self.dls),
        )

    def report(
        self, path: str | Path | None = None, *, title: str | None = None, photos: bool = True
    ) -> RunReport:
        """The page of the run so far: what was done, what it came to, with photos; changes nothing.

        `learn.report("run.html")` writes one file that needs no network; without a path a notebook
        shows the page, and `print(learn.report())` the same facts as tables.

        Args:
            path: a file that ends in .html; None writes nothing.
            title: of the page; None for the network's name and the data's.
            photos: False leaves out all photos, such as those that must not be passed on.

        Raises:
            LayerGroupsError: path or title is not what it should be.
            CheckpointError: the file cannot be written.
        """
        made = report_on(self, path, title=title, pictures=photos)
        if path is None:
            return made
        self.processes.write("report", lambda: made.save(path))
        return RunReport(made.records, Path(path))
