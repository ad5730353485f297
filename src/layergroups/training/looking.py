"""What a learner shows and says of model and data: all of it changes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from layergroups.reports.heat_map import HeatMap, heat_map
from layergroups.reports.results import results_picture
from layergroups.reports.run_report import RunReport, report_on
from layergroups.reports.schedule_picture import SchedulePreview
from layergroups.reports.summary import ModelSummary, model_summary
from layergroups.training import lr_find, notebook
from layergroups.training.answers import answer
from layergroups.training.evaluation import evaluate, predict_all
from layergroups.training.found_rates import FoundRates
from layergroups.training.heap import reused_memory
from layergroups.training.loaders import (
    batches_of,
    class_names,
    count_of,
    example_of,
    load_item,
)
from layergroups.training.prediction import predictions
from layergroups.training.preview import preview_fit
from layergroups.training.schedules import Schedule
from layergroups.training.suggestions import named
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

        Raises:
            TrainingError: these are no batches, or the model cannot take them.
        """
        batches = batches_of(self.dls, dl)
        model = self.placed_model()
        with self.reporter.bar("validation", count_of(batches)) as bar:
            return evaluate(
                model,
                batches,
                loss_func=self.loss_func,
                task=self.task,
                meter=self.meter(),
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

        Raises:
            TrainingError: these are no batches, or the model cannot take them.
        """
        batches = batches_of(self.dls, dl)
        model = self.placed_model()
        with reused_memory(), self.reporter.bar("predictions", count_of(batches)) as bar:
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

        Raises:
            DataError: this is no image, or it cannot be read.
            TrainingError: the model cannot take what it is.
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
        return results_picture(self, path, n, batches_of(self.dls, dl))

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
            TrainingError: there is no such fit.
            ArgumentError: it does not take these arguments.
            LayerGroupsError: the picture cannot be written.
        """
        made = preview_fit(self, fit, words, named)
        if path is not None:
            made.save(path)
        return made

    def lr_find(
        self,
        start_lr: float = 1e-7,
        end_lr: float = 10,
        num_it: int = 100,
        stop_div: bool = True,
        show_plot: bool = True,
        suggest_funcs: Any = ("valley", "steep", "minimum", "slide"),
        *,
        by_group: bool | Sequence[str | int] = True,
    ) -> FoundRates:
        """Learning rates from sweeps: of all groups together, and of each alone; changes nothing.

        In each sweep the model trains for real, by this learner's optimizer as it is, while the
        rates rise in equal ratios; then everything is put back to the bit. The sweep of all groups
        keeps the relation of their rates; in the others one group trains and the rest are frozen.
        All sweeps see the same batches of the coming epoch, over and over; they are read once, and
        frozen layers below the first that trains run once, as far as `store_options.memory`
        allows. Groups that are frozen now stay so, and get no rate. Callbacks are not called.

        Use it: `learn.fit_one_cycle(3, lr=learn.lr_find().rates)`. Before the head has trained, the
        curves of the body say little.

        Source: Smith 2017, «Cyclical Learning Rates for Training Neural Networks»; arguments and
        suggestions are fastai's.

        Args:
            start_lr: the first rate of the group whose rate is highest.
            end_lr: its last rate.
            num_it: steps of the optimizer in each sweep, 20 or more.
            stop_div: end a sweep, after its first tenth, as soon as the smoothed loss is four times
                its lowest.
            show_plot: in a notebook, show the picture.
            suggest_funcs: names, or functions of (rates, losses) that give a rate; the first of
                them makes `rates`.
            by_group: False for the sweep of all groups only, or the groups to try alone.

        Returns:
            Curves and suggestions; `print` shows a table, `plot("rates.png")` draws them.

        Raises:
            TrainingError: an argument is wrong, nothing trains, several processes train together,
                or the loss is not finite or diverges within the first steps.
        """
        suggest = named(suggest_funcs)
        plan = lr_find.Plan(start_lr, end_lr, num_it, stop_div, suggest)
        found = lr_find.find_rates(self, plan, by_group)
        if show_plot:
            notebook.show(found.figure)
        return found
