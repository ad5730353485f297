"""What a learner shows and says of model and data: all of it changes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from layergroups.training import lr_find, notebook, suggest
from layergroups.training.evaluation import Prediction, evaluate, predict_all, prediction
from layergroups.training.found_rates import FoundRates
from layergroups.training.loaders import (
    class_names,
    count_of,
    load_item,
    n_classes,
)
from layergroups.training.metrics import Meter
from layergroups.training.prediction import predictions
from layergroups.training.proposal import GroupProposal
from layergroups.training.suggestions import named
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
                meter=Meter(self.metrics, n_classes(self.dls)),
                accelerator=self.accelerator,
                processes=self.processes,
                advance=bar.advance,
            )

    def get_preds(
        self, dl: Iterable[Any] | None = None, with_loss: bool = False
    ) -> tuple[Tensor, Tensor | None] | tuple[Tensor, Tensor | None, Tensor]:
        """Probabilities of the validation photos, or of other batches; changes nothing.

        Args:
            dl: batches (inputs, targets), or of inputs only, such as `dls.test_dl(paths)`.
            with_loss: also give the loss of each item.

        Returns:
            Probabilities (N, C) and targets (N,), in the order of the batches, on the CPU; targets
            are None where the batches have none. With `with_loss` also the losses (N,).
        """
        batches: Iterable[Any] = self.dls.valid if dl is None else dl
        model = self.placed_model()
        with self.reporter.bar("predictions", count_of(batches)) as bar:
            found, targets, losses = predict_all(
                model,
                batches,
                loss_func=self.loss_func,
                accelerator=self.accelerator,
                with_loss=with_loss,
                advance=bar.advance,
            )
        return (found, targets) if losses is None else (found, targets, losses)

    def predict(self, item: object) -> Prediction:
        """The class of one image: a path, a PIL image, an array or a tensor."""
        inputs = load_item(self.dls, item).unsqueeze(0)
        found, _, _ = predict_all(
            self.placed_model(),
            [inputs],
            loss_func=self.loss_func,
            accelerator=self.accelerator,
        )
        return prediction(found[0], class_names(self.dls))

    def iter_preds(self, photos: Paths | OrderedBatches) -> Iterator[tuple[Path, Prediction]]:
        """Each photo of a folder with its prediction, as they come; memory stays bounded.

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

    def suggest_groups(
        self,
        base_lr: float | None = None,
        *,
        batches: int = 16,
        train_head: bool | None = None,
    ) -> GroupProposal:
        """What to freeze and at which rates to train the rest, measured on these data.

        For every block and layer group: the gradient's norm beside that of the weights, how much
        of the gradient is signal and not noise from batch to batch, and how much the outputs
        change in some steps of all groups at one rate. From these follows a proposal; `propose`
        says how. Everything is put back to the bit, as after `lr_find`.

        Behind a head that has never trained, gradients of the body are those of chance. So the
        last group first trains, on trial, on batches that are not measured.

        Use it: `learn.fine_tune(3, lr=learn.suggest_groups().rates)`.

        Source: Lee et al. 2022, «Surgical Fine-Tuning Improves Adaptation to Distribution Shifts»;
        see `training/evidence.py` for the measures.

        Args:
            base_lr: rate of the group that gets the highest; None is that of all groups in
                `fine_tune`.
            batches: to measure, 3 or more; at most those of an epoch.
            train_head: whether the last group trains before; None: if this learner has never
                trained.

        Returns:
            Measurements, rates and reasons; `print` shows tables, `apply(learn)` takes it over.

        Raises:
            TrainingError: an argument is wrong, there are fewer than 3 batches, several processes
                train together, or a loss is not finite.
        """
        rate = suggest.usual_rate() if base_lr is None else base_lr
        return suggest.suggest_groups(self, suggest.Look(rate, batches, train_head))
