"""The Learner: a model, its layer groups, and batches; it trains, saves and predicts.

It holds the state and calls functions of this room; what they do is said in their own files.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from layergroups import checkpoints
from layergroups.anatomy.looking import unwrap
from layergroups.errors import TrainingError
from layergroups.groups import Freezing, LayerGroups, Rate, Split
from layergroups.training import exporting, loop, recipes, saving
from layergroups.training.autosave import Autosave, Keeper, asked, autosave
from layergroups.training.callbacks import checked
from layergroups.training.device import (
    launched_accumulation,
    make_accelerator,
    place,
    precision_name,
)
from layergroups.training.distributed import Processes, current_processes
from layergroups.training.evaluation import Prediction, evaluate, predict_all, prediction
from layergroups.training.history import EpochRow, History
from layergroups.training.layout import in_fast_layout
from layergroups.training.loaders import (
    Batches,
    Loaders,
    class_names,
    count_of,
    example_of,
    load_item,
    n_classes,
)
from layergroups.training.losses import LossFunc, default_loss
from layergroups.training.metrics import Meter, as_list, check_metrics
from layergroups.training.modes import BatchNorm, NormPolicy
from layergroups.training.optimizers import OptFunc, build_optimizer
from layergroups.training.prediction import predictions
from layergroups.training.progress import Reporter, reporter
from layergroups.training.replacing import carry_optimizer, fitting_data, regroup
from layergroups.training.schedules import Flat, OneCycle, Schedule
from layergroups.training.seeds import mixed
from layergroups.training.sharding import shard, wants_sharding
from layergroups.training.shelf import StoreOptions
from layergroups.training.stored import FeatureStore, StoredEpochs
from layergroups.training.thawing import Thaw

if TYPE_CHECKING:
    from accelerate import Accelerator

    from layergroups.checkpoints import Blueprint
    from layergroups.data import OrderedBatches
    from layergroups.data.loaders import Paths


class Learner:
    """Trains a model on batches, group by group.

    `learn.model` is the only truth: training and prediction run it, `learn.layer_groups` is a view
    on it. Change it as you like; before the next step groups, freezing and optimizer follow.

    Args:
        dls: training and validation batches; `ImageDataLoaders`, or any object with `train` and
            `valid`.
        model: from inputs to outputs, such as logits (N, C).
        loss_func: mean loss of outputs and targets; cross entropy if None.
        groups: layer groups of this model, if they are made already.
        split: the rule that divides the model into groups, where `groups` is not given.
        opt_func: a name from torch.optim, a class, or a callable that takes parameter groups.
        lr: base rate of the groups until a fit says otherwise; None: those they have, at first
            1e-3.
        weight_decay: not applied to norms, biases and tokens.
        wd: shorter name of `weight_decay`.
        metrics: names ("accuracy"), torchmetrics objects, or functions of (probabilities, classes).
        callbacks: objects with some of the events of `layergroups.training.Callback`.
        batch_norm: which norm layers keep their running statistics; see `NormPolicy`.
        mixed_precision: "no", "bf16", "fp16"; None is what `accelerate launch` has set, or "no".
        accumulate: batches for each step of the optimizer, which follows the mean of their
            gradients; see `loop.train_step`. None is what `accelerate launch` has set, or 1.
        store: how outputs of frozen layers are kept, see `StoreOptions`.
        path: folder of `save` and `load`.
        seed: if given, every epoch seeds torch's generator with it and the epoch's number.
        progress: show bars and rows on stderr; or an object that does so.

    Raises:
        TrainingError: an argument is not what it should be.
        GroupingError: the split rule does not fit the model.
    """

    def __init__(
        self,
        dls: Loaders,
        model: nn.Module,
        *,
        loss_func: LossFunc | None = None,
        groups: LayerGroups | None = None,
        split: Split = "auto",
        opt_func: OptFunc = "adamw",
        lr: Rate | None = None,
        weight_decay: float = 0.01,
        wd: float | None = None,
        metrics: Any = (),
        callbacks: Sequence[object] = (),
        batch_norm: BatchNorm = "auto",
        mixed_precision: str | None = None,
        accumulate: int | None = None,
        store: StoreOptions | None = None,
        path: str | Path = "models",
        seed: int | None = None,
        progress: bool | Reporter = True,
    ) -> None:
        self._dls = dls
        self._model = model
        if groups is None:
            groups = LayerGroups(model, split, example_input=example_of(dls))
        self.groups = groups
        if self.groups.model is not unwrap(model):
            raise TrainingError("groups= are those of another model; use LayerGroups(model).")
        if lr is not None:
            self.groups.set_rates(lr)
        self.loss_func = loss_func or default_loss()
        self.opt_func = opt_func
        self.weight_decay = weight_decay if wd is None else wd
        self.metrics = as_list(metrics)
        check_metrics(self.metrics)
        self.callbacks = checked(callbacks)
        self.norms = NormPolicy(batch_norm, model)
        self.mixed_precision = mixed_precision
        self.accumulate = launched_accumulation(accumulate)
        self.path = Path(path)
        self.seed = seed
        self.progress = progress
        self.opt: Optimizer | None = None
        self.history = History()
        self.epochs_done = 0
        self.fits_done = 0
        self.store_options = store or StoreOptions()
        self.store = FeatureStore()
        self.blueprint: Blueprint | None = None
        self._split = split
        self._accelerator: Accelerator | None = None
        self._reporter: tuple[bool | Reporter, Reporter] | None = None

    # What it is made of

    @property
    def model(self) -> nn.Module:
        """The model. Another one may be assigned: groups and optimizer follow."""
        return self._model

    @model.setter
    def model(self, model: nn.Module) -> None:
        if model is self._model:
            return
        groups = regroup(self.layer_groups, model, self._split, self._dls)
        self._model, self.groups = model, groups
        self.norms.note(model)
        if self.opt is not None:
            self.placed_model()
            self.opt = carry_optimizer(self.opt, groups)

    @property
    def layer_groups(self) -> LayerGroups:
        """The layer groups, in step with the model as it is now."""
        self.groups.sync()
        return self.groups

    @property
    def dls(self) -> Loaders:
        """The data. Others with the same classes may be assigned."""
        return self._dls

    @dls.setter
    def dls(self, dls: Loaders) -> None:
        self._dls = fitting_data(self._dls, dls)

    @property
    def accelerator(self) -> Accelerator:
        """Device and precision; made when first used."""
        made = self._accelerator
        if made is None or made.mixed_precision != precision_name(self.mixed_precision):
            made = self._accelerator = make_accelerator(self.mixed_precision)
        return made

    @property
    def reporter(self) -> Reporter:
        """Who shows bars and rows."""
        if self._reporter is None or self._reporter[0] is not self.progress:
            shown = self.progress if self.processes.is_main else False
            self._reporter = (self.progress, reporter(shown))
        return self._reporter[1]

    @property
    def processes(self) -> Processes:
        """Who trains together: those that `torchrun` or `accelerate launch` has started."""
        _ = self.accelerator  # it joins them
        return current_processes()

    def placed_model(self) -> nn.Module:
        """The model, on the device where it runs."""
        placed = place(self._model, self.accelerator.device)
        if wants_sharding() and self.processes.several:
            shard(placed, self.groups, self.processes, self.accelerator.device.type)
        return placed

    def made_optimizer(self) -> Optimizer:
        """The optimizer, over all groups on the device; made before the first fit, then kept."""
        in_fast_layout(self.placed_model())
        if self.opt is None:
            groups = self.layer_groups
            self.opt = build_optimizer(
                self.opt_func,
                groups.param_groups(weight_decay=self.weight_decay),
                lr=max(groups.rates),
            )
            groups.attach(self.opt)
        return self.opt

    # Training

    def fit(
        self,
        epochs: int,
        lr: Rate | None = None,
        *,
        store: bool = True,
        checkpoint_dir: str | Path | None = None,
        checkpoint_every: int | None = None,
        resume: bool = False,
    ) -> History:
        """Train at flat rates.

        While groups are frozen, their outputs are computed once and kept (see `StoredEpochs`), so
        that the epochs after the first ones cost little more than what trains.

        Args:
            epochs: passes over the training photos.
            lr: a rate for each group: a number, `slice(low, high)`, a list, a dict by group name,
                or `decay(...)`. None: the rates that the groups have.
            store: False runs the frozen layers in every epoch.
            checkpoint_dir: save the whole state here after each epoch, each fit of the learner in
                a folder of its own.
            checkpoint_every: save also after so many optimizer steps.
            resume: go on from the newest whole checkpoint there. A script in which every fit has
                `resume=True` can be killed at any moment and started again: it ends bit for bit
                where the unbroken run ends.

        Returns:
            The rows of these epochs; `history` has those of all fits.

        Raises:
            TrainingError: nothing would train, or the folder holds an earlier run.
            CheckpointError: every checkpoint is damaged, or they are of another fit or model.
        """
        plan = autosave(checkpoint_dir, checkpoint_every, resume)
        return self._fit(epochs, lr, Flat(), "fit", plan, store)

    def fit_one_cycle(
        self,
        epochs: int,
        lr: Rate | None = None,
        *,
        div: float = 25.0,
        div_final: float = 1e5,
        pct_start: float = 0.25,
        moms: tuple[float, float, float] = (0.95, 0.85, 0.95),
        store: bool = True,
        checkpoint_dir: str | Path | None = None,
        checkpoint_every: int | None = None,
        resume: bool = False,
    ) -> History:
        """Train with rates that rise and fall once; see `OneCycle`.

        Args:
            epochs: passes over the training photos.
            lr: the highest rate of each group, as in `fit`.
            div: the first rate is lr / div.
            div_final: the last rate is lr / div_final.
            pct_start: part of the steps in which the rate rises.
            moms: momentum at the start, at the highest rate and at the end.
            store: as in `fit`.
            checkpoint_dir: as in `fit`.
            checkpoint_every: as in `fit`.
            resume: as in `fit`.
        """
        plan = autosave(checkpoint_dir, checkpoint_every, resume)
        schedule = OneCycle(div, div_final, pct_start, moms)
        return self._fit(epochs, lr, schedule, "one cycle", plan, store)

    def fine_tune(
        self,
        epochs: int,
        base_lr: float | None = None,
        *,
        freeze_epochs: int = 1,
        lr: Rate | None = None,
        store: bool = True,
        defaults: recipes.FineTuneDefaults | None = None,
        checkpoint_dir: str | Path | None = None,
        checkpoint_every: int | None = None,
        resume: bool = False,
    ) -> History:
        """Train the head on the frozen body, then all groups.

        Otherwise than in fastai, a frozen epoch does not go back through the body, nor does the
        head see its outputs once only: they are kept (for two augmented views of each photo, which
        is what one frozen epoch costs), and the head trains on them for many cheap passes, until
        it is no longer better on training photos that were held out. Rates in the second phase are
        the same for all groups, a tenth of base_lr; fastai spreads them from base_lr / 200 to
        base_lr / 2. Callbacks see stored features as inputs in the first phase.

        Args:
            epochs: passes over the training photos with no group frozen.
            base_lr: rate of the head in the first phase.
            freeze_epochs: of the first phase; each is two forward passes of the body.
            lr: rates of the second phase, as in `fit`; None is a tenth of base_lr.
            store: False trains the frozen epochs through the whole network.
            defaults: all other figures.
            checkpoint_dir: as in `fit`.
            checkpoint_every: as in `fit`.
            resume: as in `fit`.

        Returns:
            A row for the first phase and one for each epoch of the second.
        """
        figures = defaults or recipes.FineTuneDefaults()
        options: dict[str, Any] = {"base_lr": base_lr, "freeze_epochs": freeze_epochs, "lr": lr}
        phases = recipes.plan_fine_tune(epochs, **options, store=store, defaults=figures)
        plan = autosave(checkpoint_dir, checkpoint_every, resume)
        return recipes.run_plan(self, phases, figures, plan)

    def thaw(
        self,
        epochs: int | None = None,
        lr: Rate | None = None,
        *,
        every: int = 1,
        start: int | str = -1,
        checkpoint_dir: str | Path | None = None,
        checkpoint_every: int | None = None,
        resume: bool = False,
    ) -> History:
        """Gradual unfreezing: train in one cycle, one more group each few epochs, head first.

        Source: Howard and Ruder 2018 (ULMFiT); see `Thaw`, which does the same in any fit.

        Args:
            epochs: passes over the training photos; None: just enough that all groups train.
            lr: the highest rate of each group, as in `fit`.
            every: epochs after which the next group trains too.
            start: name or index of the lowest group that trains in the first epoch.
            checkpoint_dir: as in `fit`.
            checkpoint_every: as in `fit`.
            resume: as in `fit`.
        """
        thaw, groups = Thaw(every, start), self.layer_groups
        groups.freeze_to(start)
        if lr is not None:
            groups.set_rates(lr)
        enough = groups[start].index * every + 1
        plan = autosave(checkpoint_dir, checkpoint_every, resume)
        return self.fit_phase(
            enough if epochs is None else epochs, OneCycle(), "thaw", plan, callbacks=(thaw,)
        )

    def freeze(self, *which: str | int, norm: str = "freeze") -> Freezing:
        """Let the last group train, no other; or freeze the groups named. Use it with `with`, too.

        `norm="train"` lets the norm layers of frozen groups train all the same.
        """
        return self.layer_groups.freeze(*which, norm=norm)

    def freeze_to(self, n: int | str, *, norm: str = "freeze") -> Freezing:
        """Let group n and those after it train: `freeze_to(-2)` the last two."""
        return self.layer_groups.freeze_to(n, norm=norm)

    def unfreeze(self, *which: str | int) -> Freezing:
        """Let all groups train, or the groups named."""
        return self.layer_groups.unfreeze(*which)

    # Looking

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

    # Saving

    def save(self, name: str) -> Path:
        """Write weights, optimizer, groups, history and random states to `path/name.safetensors`.

        Returns:
            The file.
        """
        return saving.save(self, self._file(name))

    def load(
        self, name: str | Path, *, with_opt: bool = True, strict: bool | None = None
    ) -> Learner:
        """Go back to what `save(name)` wrote; training goes on as if it had never stopped.

        Args:
            name: as given to `save`, or the path of a checkpoint that a fit has written.
            with_opt: also take over the optimizer's state.
            strict: None takes the freezing and rates of the layer groups that are in both, and
                prints what differs; True refuses other groups; False takes also those weights that
                fit where others do not (`transplant` does more).

        Raises:
            CheckpointError: there is no such file, it is damaged, or it does not fit the model.
        """
        source = self._file(name)
        tensors, state = checkpoints.read(source)
        options: dict[str, Any] = {"with_opt": with_opt, "strict": strict, "source": str(source)}
        saving.restore(self, tensors, state, **options)
        return self

    def export(self, folder: str | Path) -> Path:
        """Write a folder from which `load_learner(folder)` predicts, without the photos.

        A name that ends in .onnx or .pt2 (`learn.export("model.onnx")`) becomes one file that runs
        without this library, with `model.onnx.json` beside it: RGB pixels, uint8 (N, H, W, 3), in,
        probabilities (N, C) out. It is compared with what the learner says before it is kept.

        Returns:
            The folder, or the file.

        Raises:
            TrainingError: the data do not describe their transform.
            CheckpointError: it cannot be written, or the model cannot be captured as a graph.
        """
        self.processes.write("export", lambda: exporting.export(self, Path(folder)))
        return Path(folder)

    # What the loop asks for

    def fit_phase(
        self,
        epochs: int,
        schedule: Schedule,
        phase: str,
        plan: Autosave | None = None,
        callbacks: Sequence[object] = (),
        store: bool = True,
    ) -> History:
        """Train at the groups' rates as they stand, saved as planned, with further callbacks."""
        if not isinstance(epochs, int) or epochs < 0:
            raise TrainingError(f"epochs={epochs!r} must be a whole number, such as 3.")
        if not epochs:
            return History()
        keeper = None if plan is None else Keeper(plan, self)
        done = keeper and keeper.finished(self, asked(phase, epochs, schedule, self))
        if done:
            return done
        run = loop.new_run(self, epochs, schedule, phase, keeper, callbacks)
        run.stored = StoredEpochs(self.store, self.store_options) if store else None
        return loop.fit(run)

    def begin_epoch(self, batches: Batches, *, seeded: bool = True) -> None:
        """Order, random state and modes of the coming epoch; not seeded in the midst of it."""
        if self.seed is not None and seeded:
            torch.manual_seed(self.epoch_seed())
        set_epoch = getattr(batches, "set_epoch", None)
        if set_epoch is not None:
            set_epoch(self.epochs_done)
        self.norms.train(self.model)

    def end_epoch(self, row: EpochRow, passes: int = 1) -> None:
        """Keep and show what the epoch came to, which stands for so many passes."""
        self.history += (row,)
        self.epochs_done += passes
        self.reporter.row(row)

    def epoch_seed(self, epoch: int | None = None) -> int:
        """A seed for an epoch, None for the coming one, by the learner's seed or its data's."""
        seed = getattr(self.dls, "seed", 0) if self.seed is None else self.seed
        return mixed(seed, self.epochs_done if epoch is None else epoch)

    def _fit(
        self,
        epochs: int,
        lr: Rate | None,
        schedule: Schedule,
        phase: str,
        plan: Autosave | None,
        store: bool,
    ) -> History:
        if lr is not None:
            self.layer_groups.set_rates(lr)
        return self.fit_phase(epochs, schedule, phase, plan, store=store)

    def _file(self, name: str | Path) -> Path:
        return self.path / f"{str(name).removesuffix('.safetensors')}.safetensors"
