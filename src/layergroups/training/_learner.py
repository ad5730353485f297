"""The Learner: a model, its layer groups, and batches; it trains, saves and predicts.

Its methods are short: the work is in the functions that they call, its state in `LearnerState`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, Never, TypedDict, TypeVar, Unpack, overload

import torch
from torch import Tensor, nn

from layergroups import checkpoints
from layergroups._drawing import Figure
from layergroups._forward import single_batch
from layergroups._paths import path_of
from layergroups._suggestions import unknown_attribute
from layergroups.data import (
    EvalLoader,
    Paths,
    Size,
    TextEvalLoader,
    TrainValid,
    batch_count,
    batches_of,
)
from layergroups.errors import CheckpointError, TrainingError
from layergroups.groups import Freezing, LayerGroups, Rate, Split
from layergroups.reports import (
    HeatMap,
    ModelSummary,
    RunReport,
    SchedulePreview,
    heat_map,
    model_summary,
    report_on,
    results_picture,
)
from layergroups.tasks import AnyPrediction, LossFunc, Prediction, task_meant_by
from layergroups.training._inference import all_predictions, averaged_predictions, predictions
from layergroups.training._tiles import tiled_prediction
from layergroups.training.callbacks import GradualUnfreezing, checkpoint_config
from layergroups.training.feature_cache import (
    FeatureCache,
    FeatureCacheConfig,
    checked_cache_config,
)
from layergroups.training.hardware import Compile
from layergroups.training.loop import evaluate, predict_all
from layergroups.training.lr_finder import FoundRates, Plan, find_rates, named
from layergroups.training.optim import Flat, FlatCos, OneCycle, OptFunc, Schedule
from layergroups.training.persistence import export, restore, save
from layergroups.training.recipes import (
    DEFAULTS,
    FineTuneDefaults,
    FineTunePlan,
    FitOptions,
    FitSetup,
    Phase,
    Planned,
    SearchResult,
    call_fit,
    checked_fit,
    checked_plan,
    checked_schedule,
    new_plan,
    phases_of,
    preview_phases,
    run_phases,
    search,
    seconds_of,
    takes_fit_options,
)
from layergroups.training.state import (
    BatchNorm,
    Ema,
    History,
    LearnerState,
    Reporter,
    Setting,
    checked_callbacks,
    show,
)

_Expected = TypeVar("_Expected", bound=AnyPrediction)


class LearnerOptions(TypedDict, total=False):
    """The options of `Learner` that `vision_learner` and its like also take; see `Learner`."""

    thresh: float
    lr: Rate | None
    weight_decay: float
    wd: float | None
    callbacks: Sequence[object] | None
    batch_norm: BatchNorm
    mixed_precision: str | None
    accumulate: int | None
    clip: float | None
    ema: Ema
    compile: Compile
    feature_cache: FeatureCacheConfig | None
    path: str | Path
    progress: bool | Reporter


class Learner(LearnerState):
    """Trains a model on batches, group by group.

    Training and prediction run `learn.model`; `learn.layer_groups` is a view of it. Change the
    model as you like: groups, freezing and optimizer follow before the next step.

    Args:
        dls: training and validation batches; `ImageDataLoaders`, or any object with `train` and
            `valid`.
        model: from inputs to outputs, such as logits (N, C).
        loss_func: "cross_entropy", "focal", "bce", "binary_focal", "mse", "l1", "huber", names with
            + between them for equal shares ("dice+focal", for masks), an object
            such as `CrossEntropy(label_smoothing=0.1, weight="balanced")` or `FocalLoss(gamma=2)`,
            or any function from outputs and targets to the mean loss; its attribute `activation`,
            if it has one, makes predictions of outputs. None: by the task of the data,
            cross entropy (multiclass), binary cross entropy (multilabel) or the mean squared error
            (regression).
        thresh: for multilabel data, the probability above which `predict` and the metrics given by
            name count a label as present; `learn.thresh = 0.3` changes it.
        groups: layer groups of this model, if they exist already.
        split: the rule that divides the model into groups, if `groups` is not given.
        opt_func: a name from torch.optim or timm.optim ("sgd", "radam", "lamb"), a class, or a
            callable that takes parameter groups; see `build_optimizer`.
        lr: base rate of the groups until a fit sets others; None: the rates of `groups`, at first
            1e-3.
        weight_decay: not applied to norms, biases and tokens.
        wd: alias of `weight_decay`.
        metrics: names ("accuracy"), torchmetrics objects, or functions of (probabilities, targets).
            Names leave out absent classes in means, and targets at `ignore_index`.
        callbacks: objects with some of the events of `layergroups.training.Callback`.
        batch_norm: which norm layers keep their running statistics; see `BatchNormPolicy`.
        mixed_precision: "no", "bf16", "fp16"; None: the setting of `accelerate launch`, or "no".
        accumulate: batches for each optimizer step, which uses the mean of their gradients. None:
            the setting of `accelerate launch`, or 1.
        clip: the maximum norm of the gradients of all groups together, over all batches and
            processes of a step; larger gradients are scaled down to it. None does not clip.
        ema: the decay of an exponential moving average of the weights, such as 0.999, or True for
            that. The average is validated after each epoch and replaces the weights after the fit,
            so it is saved, exported and used for predictions; see `EMA`. It does not apply to the
            first phase of `fine_tune`, which chooses the head by held-out items.
        compile: True, or a dict of arguments of `torch.compile`: fits run the model compiled.
            `learn.model` stays the model itself; after surgery, freezing or unfreezing the next
            call compiles again. Epochs on cached outputs and predictions run it uncompiled.
        feature_cache: how outputs of frozen layers are cached, see `FeatureCacheConfig`.
        path: folder of `save` and `load`.
        seed: if given, every epoch seeds torch's generator with it and the epoch's number.
        progress: show bars and rows on stderr; or an object that shows them, see `Reporter`.

    Raises:
        TrainingError: an argument is wrong.
        GroupingError: the split rule does not fit the model.
    """

    cache: Setting[Never, FeatureCache]
    feature_cache = Setting(checked_cache_config)
    last_search: SearchResult | None = None  # what the last `search` has tried

    def __init__(
        self,
        dls: TrainValid,
        model: nn.Module,
        *,
        loss_func: LossFunc | str | None = None,
        thresh: float = 0.5,
        groups: LayerGroups | None = None,
        split: Split = "auto",
        opt_func: OptFunc = "adamw",
        lr: Rate | None = None,
        weight_decay: float = 0.01,
        wd: float | None = None,
        metrics: Any = (),
        callbacks: Sequence[object] | None = (),
        batch_norm: BatchNorm = "auto",
        mixed_precision: str | None = None,
        accumulate: int | None = None,
        clip: float | None = None,
        ema: Ema = None,
        compile: Compile = None,
        feature_cache: FeatureCacheConfig | None = None,
        path: str | Path = "models",
        seed: int | None = None,
        progress: bool | Reporter = True,
    ) -> None:
        super().__init__(
            dls, model, groups=groups, split=split, cache=FeatureCache(), batch_norm=batch_norm
        )
        if lr is not None:
            self.groups.set_rates(lr)
        asked = self.data.task or task_meant_by(loss_func)
        self.loss_func = asked.default_loss() if loss_func is None else loss_func
        self.thresh = thresh
        self.opt_func = opt_func
        self.weight_decay = weight_decay if wd is None else wd
        self.metrics = metrics
        self.callbacks = callbacks
        self.mixed_precision = mixed_precision
        self.accumulate = accumulate
        self.clip = clip
        self.ema = ema
        self.compile = compile
        self.feature_cache = feature_cache
        self.path = path
        self.seed = seed
        self.progress = progress
        self._planned: list[Planned] | None = None

    def __setattr__(self, name: str, value: object) -> None:
        # A misspelt name must not become an attribute that nothing reads. Subclasses may add some.
        if type(self) is Learner and not name.startswith("_") and name not in _attributes():
            raise unknown_attribute(Learner, name, sorted(_attributes() & {*dir(self)}))
        super().__setattr__(name, value)

    # Training

    @takes_fit_options
    def fit(self, epochs: int, lr: Rate | None = None, **options: Unpack[FitOptions]) -> History:
        """Train at flat rates.

        Args:
            epochs: passes over the training items.
            lr: a rate for each group: a number, `slice(low, high)`, a list, a dict by group name,
                or `decay(...)`. None: the current rates of the groups.
            **options: `callbacks`, `feature_cache`, `checkpoint_dir`, `checkpoint_every` and
                `resume`; see `FitOptions`.

        Returns:
            The rows of these epochs; `history` has those of all fits.

        Raises:
            TrainingError: nothing would train, or the folder holds an earlier run; freezing and
                rates stay unchanged.
            CheckpointError: every checkpoint is damaged, or they are of a different fit or model.
        """
        return self._run([Phase(name="fit", epochs=epochs, lr=lr, schedule=Flat())], options)

    @takes_fit_options
    def fit_one_cycle(
        self,
        epochs: int,
        lr: Rate | None = None,
        *,
        div: float = 25.0,
        div_final: float = 1e5,
        pct_start: float = 0.25,
        moms: tuple[float, float, float] = (0.95, 0.85, 0.95),
        **options: Unpack[FitOptions],
    ) -> History:
        """Train with rates that rise and fall once; see `OneCycle`.

        Args:
            epochs: passes over the training items.
            lr: the highest rate of each group, as in `fit`.
            div: the first rate is lr / div.
            div_final: the last rate is lr / div_final.
            pct_start: part of the steps in which the rate rises.
            moms: momentum at the start, at the highest rate and at the end.
            **options: those of every fit; see `FitOptions`.
        """
        schedule = OneCycle(div, div_final, pct_start, moms)
        return self._run(
            [Phase(name="one cycle", epochs=epochs, lr=lr, schedule=schedule)], options
        )

    @takes_fit_options
    def fit_flat_cos(
        self,
        epochs: int,
        lr: Rate | None = None,
        *,
        div_final: float = 1e5,
        pct_start: float = 0.75,
        **options: Unpack[FitOptions],
    ) -> History:
        """Train at flat rates, then let them fall along a cosine; see `FlatCos`.

        Args:
            epochs: passes over the training items.
            lr: the rate of each group in the flat part, as in `fit`.
            div_final: the last rate is lr / div_final.
            pct_start: part of the steps that is flat.
            **options: those of every fit; see `FitOptions`.
        """
        schedule = FlatCos(pct_start, div_final)
        return self._run([Phase(name="flat cos", epochs=epochs, lr=lr, schedule=schedule)], options)

    @takes_fit_options
    def fit_phase(
        self,
        epochs: int,
        schedule: Schedule,
        phase: str = "fit",
        *,
        lr: Rate | None = None,
        **options: Unpack[FitOptions],
    ) -> History:
        """Train with a custom schedule: any object with `multiplier(t)` and `momentum(t)`.

        Args:
            epochs: passes over the training items.
            schedule: the multiplier on the rates, such as `OneCycle()`.
            phase: its name in the history.
            lr: as in `fit`.
            **options: those of every fit; see `FitOptions`.
        """
        own = checked_schedule(schedule)
        return self._run([Phase(name=phase, epochs=epochs, lr=lr, schedule=own)], options)

    @takes_fit_options
    def fine_tune(
        self,
        epochs: int | None = None,
        base_lr: float | None = None,
        *,
        freeze_epochs: int = 1,
        lr: Rate | None = None,
        defaults: FineTuneDefaults | None = None,
        plan: FineTunePlan | Mapping[str, Any] | None = None,
        **options: Unpack[FitOptions],
    ) -> History:
        """Train the head on the frozen body, then all groups.

        The two phases decide which groups train, including parameters in them that you froze with
        `requires_grad_(False)`. `fit` after `freeze_to` leaves those frozen.

        First phase: the outputs of the body are computed once for two views of each item, one of
        them augmented, and cached. The head trains on them for a thousand cheap steps or more.
        Callbacks see cached outputs as inputs.

        Second phase: all groups train. Of an encoder of texts the group of its embeddings stays
        frozen, and of fewer than 1000 texts the next group too. Small data get smaller batches, so
        that there are enough steps. At the end, the weights lie between those of the first phase
        and the last ones, which is more robust than either end. A tenth of the training items,
        which is held out until the last epoch, decides where; so this phase does not end clearly
        worse than the head alone. Validation items decide nothing. `FineTuneDefaults(lowest=1)`
        leaves the first group frozen, and caches its outputs.

        Args:
            epochs: of the second phase; None chooses by the number of training items.
            base_lr: rate of the head in the first phase.
            freeze_epochs: of the first phase; each is two forward passes of the body.
            lr: rates of the second phase, as in `fit`; None is 0.05 of base_lr for all groups. A
                head of several layers gets 0.15 of it (a decoder of masks 0.5), the first group a
                tenth of that; texts get 1e-4 (the head of few texts 3e-4). A slice, list, dict or
                decay trains the groups from the first one with a rate on.
            defaults: all other settings.
            plan: repeat what another `fine_tune` has decided (`learn.plan`, or
                `RunRecord.load("model").plan`); instead of the arguments above.
            **options: those of every fit, for both phases; see `FitOptions`.

        Returns:
            A row for the first phase and one for each epoch of the second.
        """
        if plan is None:
            made = new_plan(
                self, epochs, base_lr=base_lr, freeze_epochs=freeze_epochs, lr=lr, defaults=defaults
            )
        elif (epochs, base_lr, freeze_epochs, lr, defaults) == (None, None, 1, None, None):
            made = checked_plan(plan, self)
        else:
            raise TrainingError(
                "A plan has all decisions: give fine_tune(plan=plan) alone, or change it first: "
                "fine_tune(plan=replace(plan, epochs=4))."
            )
        phases = phases_of(made, lr=lr, feature_cache=options.get("feature_cache", True))
        return self._run(phases, options, made)

    @takes_fit_options
    def search(
        self,
        trials: int = 30,
        *,
        budget: str | float | None = None,
        epochs: int | None = None,
        base_lr: float | None = None,
        defaults: FineTuneDefaults | None = None,
        study: Any = None,
        apply: bool = True,
        **options: Unpack[FitOptions],
    ) -> SearchResult:
        """Try variants of `fine_tune` on held-out training items, then fine-tune with the best.

        The frozen layers run once, and all trials train from their cached outputs: rates and weight
        decay of the head, training with and without augmentation, the rates of the groups below it
        and, if there are more than three groups, from which of them on. What the first group would
        learn is not measured, because its inputs are not cached. The default recipe is kept unless
        held-out items that ranked nothing also speak for a different one.

        Ctrl-C ends the search with the best so far, without fine-tuning; SIGTERM ends the program.
        `learn.last_search` keeps the result, also if the fine-tuning is interrupted. The result
        depends only on the seed, unless a budget ends the search by time.

        Args:
            trials: how many variants.
            budget: instead, the time for search and fine-tuning, such as "20 min" or seconds.
            epochs: of the second phase, as in `fine_tune`; with a budget, None is no more of these
                than fit into it, at least one. A line in the log says if it is too short.
            base_lr: rate of the head, as in `fine_tune`.
            defaults: the recipe whose variants are tried.
            study: an optuna `Study`, which then asks for the rates and weight decays of the heads
                (`ask` and `tell`); None: a grid in an order of chance.
            apply: fine-tune with the plan; False leaves the learner as it was.
            **options: of the fine-tuning; see `FitOptions`.

        Returns:
            All trials and the plan; `print` shows a table, `figure` a picture.

        Raises:
            TrainingError: too few training items, or no layer's outputs can be cached.
        """
        seconds = None if budget is None else seconds_of(budget)
        made = new_plan(self, epochs, base_lr=base_lr, freeze_epochs=1, lr=None, defaults=defaults)
        with _gradients():
            found = search(
                self,
                made,
                trials=trials,
                budget=seconds,
                study=study,
                choose_epochs=epochs is None,
                cache_config=self.feature_cache,
            )
        self.last_search = found
        if apply and not found.interrupted:
            self.fine_tune(plan=found.plan, **options)
        return found

    @property
    def plan(self) -> FineTunePlan | None:
        """What the last `fine_tune` has decided; None before one."""
        known = next((row.plan for row in reversed(self.history) if row.plan is not None), None)
        last: FineTunePlan | None = self._last_plan
        if last is not None and last.to_dict() == known:
            return last  # rows do not hold schedules of your own
        return None if known is None else FineTunePlan.from_dict(known)

    @takes_fit_options
    def gradual_unfreeze(
        self,
        epochs: int | None = None,
        lr: Rate | None = None,
        *,
        every: int = 1,
        start: int | str = -1,
        **options: Unpack[FitOptions],
    ) -> History:
        """Train in one cycle, one more group every few epochs, head first. `thaw` is an alias.

        Source: Howard and Ruder 2018 (ULMFiT); see `GradualUnfreezing`, the callback for any fit.

        Args:
            epochs: passes over the training items; None: just enough that all groups train.
            lr: the highest rate of each group, as in `fit`.
            every: epochs after which the next group trains too.
            start: name or index of the lowest group that trains in the first epoch.
            **options: those of every fit; see `FitOptions`.
        """
        unfreezing = GradualUnfreezing(every, start)
        phase = Phase(
            name="gradual unfreezing",
            epochs=unfreezing.epochs_for(self.layer_groups) if epochs is None else epochs,
            lr=lr,
            schedule=OneCycle(),
            freeze_to=start,
            callbacks=(unfreezing,),
        )
        return self._run([phase], options)

    thaw = gradual_unfreeze

    def _run(
        self, phases: Sequence[Phase], options: FitOptions, plan: FineTunePlan | None = None
    ) -> History:
        given: FitOptions = {**DEFAULTS, **options}
        callbacks = checked_callbacks(given["callbacks"])
        cached = given["feature_cache"]
        if not isinstance(cached, bool):
            raise TrainingError(
                f"feature_cache={cached!r} of a fit must be True or False. For its limits assign "
                "learn.feature_cache = FeatureCacheConfig(...)."
            )
        checkpoints = checkpoint_config(
            given["checkpoint_dir"], given["checkpoint_every"], given["resume"]
        )
        phases = [replace(phase, stored=phase.stored and cached) for phase in phases]
        if self._planned is not None:  # plot_schedule needs the phases only
            self._planned.append((phases, callbacks))
            return History()
        setup = FitSetup(
            cache=self.cache,
            cache_config=self.feature_cache,
            callbacks=tuple(callbacks),
            checkpoints=checkpoints,
            figures=FineTuneDefaults() if plan is None else plan.figures,
        )
        with _gradients():
            return run_phases(self, phases, setup, plan)

    def freeze(self, *which: str | int, norm: str = "freeze") -> Freezing:
        """Freeze all groups but the last, or the named ones. Also works as a context manager.

        `norm="train"` still trains the norm layers of frozen groups.
        """
        return self.layer_groups.freeze(*which, norm=norm)

    def freeze_to(self, n: int | str, *, norm: str = "freeze") -> Freezing:
        """Freeze the groups before n: after `freeze_to(-2)` the last two train."""
        return self.layer_groups.freeze_to(n, norm=norm)

    def unfreeze(self, *which: str | int) -> Freezing:
        """Unfreeze all groups, or the named ones."""
        return self.layer_groups.unfreeze(*which)

    # Saving

    def save(self, name: str) -> Path:
        """Write weights, optimizer, groups, history and random states to `path/name.safetensors`.

        Returns:
            The file.
        """
        return save(self, self.file(name))

    def load(
        self, name: str | Path, *, with_opt: bool = True, strict: bool | None = None
    ) -> Learner:
        """Restore what `save(name)` wrote; training continues as if it had never stopped.

        Args:
            name: as given to `save`, or the path of a checkpoint that a fit wrote.
            with_opt: also restore the optimizer state.
            strict: None restores freezing and rates of the layer groups that both have, and logs
                the differences; True refuses different groups; False also loads the weights that
                fit if others do not (`transplant` does more).

        Raises:
            CheckpointError: the file does not exist, is damaged, or does not fit the model.
        """
        source = self.file(name)
        tensors, state = checkpoints.read(source)
        options: dict[str, Any] = {"with_opt": with_opt, "strict": strict, "source": str(source)}
        restore(self, tensors, state, **options)
        return self

    def export(self, folder: str | Path) -> Path:
        """Write a folder from which `load_learner(folder)` predicts, without the training data.

        A name that ends in .onnx or .pt2 (`learn.export("model.onnx")`) becomes one file that runs
        without this library, with `model.onnx.json` beside it. Inputs are pixels, uint8
        (N, H, W, 3); one channel for grey images, fractions from 0 to 1 for images of many
        channels. Outputs are probabilities (N, C), or numbers (N, K). The file is only written if
        its outputs match the learner's.

        Returns:
            The folder, or the file.

        Raises:
            TrainingError: the data do not describe their transform.
            CheckpointError: it cannot be written, or the model cannot be captured as a graph.
        """
        target = path_of(folder, CheckpointError, 'learn.export("model")')
        self.processes.write("export", lambda: export(self, target))
        return target

    def push_to_hub(
        self,
        repo: str,
        *,
        license: str = "apache-2.0",
        private: bool = False,
        token: str | None = None,
    ) -> str:
        """Upload the export and a model card to a model hub; `load_learner("hf://user/model")`.

        The card is written from the run: data, groups, metrics, confusions, settings, licence. All
        files are safetensors, JSON and Markdown.

        Args:
            repo: "user/model"; it is made if it does not exist.
            license: of the weights, by its name on the hub.
            private: whether a new repository is private.
            token: of the hub; None uses the one of `hf auth login`.

        Returns:
            The address of the commit.

        Raises:
            CheckpointError: the hub refuses it, or none can be reached.
        """
        from layergroups.training._hub import push

        record = self.report(images=False).records[0]
        return push(self.export, record, repo, license=license, private=private, token=token)

    # Predictions and inspection; none of it changes the learner

    def validate(self, dl: Iterable[Any] | None = None) -> dict[str, float]:
        """Loss and metrics on the validation items, or on other batches; changes nothing.

        Returns:
            "valid_loss" and each metric, by name.

        Raises:
            TrainingError: `dl` is not batches, or the model cannot take them.
        """
        batches = batches_of(self.data, dl)
        with self.reporter.bar("validation", batch_count(batches)) as bar:
            return evaluate(self, batches, advance=bar.advance)

    @overload
    def get_preds(
        self, dl: Iterable[Any] | None = None, with_loss: Literal[False] = False
    ) -> tuple[Tensor, Tensor | None]: ...
    @overload
    def get_preds(
        self, dl: Iterable[Any] | None = None, *, with_loss: Literal[True]
    ) -> tuple[Tensor, Tensor | None, Tensor]: ...
    @overload
    def get_preds(
        self, dl: Iterable[Any] | None = None, with_loss: bool = False
    ) -> tuple[Tensor, Tensor | None] | tuple[Tensor, Tensor | None, Tensor]: ...
    def get_preds(
        self, dl: Iterable[Any] | None = None, with_loss: bool = False
    ) -> tuple[Tensor, Tensor | None] | tuple[Tensor, Tensor | None, Tensor]:
        """Predict the validation items, or other batches; changes nothing.

        Args:
            dl: batches (inputs, targets), or of inputs only, such as `dls.test_dl(paths)`.
            with_loss: also return the loss of each item.

        Returns:
            Probabilities (N, C) and targets (N,), in the order of the batches, on the CPU; targets
            are None if the batches have none. Multilabel targets are (N, C), of 0 and 1; for
            regression both are numbers (N, K). With `with_loss` also the losses (N,).

        Raises:
            TrainingError: `dl` is not batches, or the model cannot take them.
        """
        batches = batches_of(self.data, dl)
        found, targets, losses = all_predictions(self, batches, with_loss=with_loss)
        return (found, targets) if losses is None else (found, targets, losses)

    @overload
    def predict(
        self, item: object, *, tile: int | Size | None = None, overlap: float = 0.25
    ) -> Prediction: ...
    @overload
    def predict(
        self,
        item: object,
        kind: type[_Expected],
        *,
        tile: int | Size | None = None,
        overlap: float = 0.25,
    ) -> _Expected: ...
    def predict(
        self,
        item: object,
        kind: type[AnyPrediction] | None = None,
        *,
        tile: int | Size | None = None,
        overlap: float = 0.25,
    ) -> Any:
        """Predict one item: a path, a PIL image, an array or a tensor; or a text.

        Args:
            item: one item of the kind that the model was trained with; a text of several columns
                is a list of its cells.
            kind: for type checkers, the class of the prediction if it is not `Prediction`, such as
                `LabelsPrediction`; it is checked.
            tile: for masks of large images: cut squares of this side, or of (height, width), in
                pixels of the image, and predict each as an image of its own, resized to the size of
                the training images. Give the size in pixels of those, before resizing. Only a few
                tiles and one row of them are in memory, beside the image and its mask.
            overlap: how much two tiles share, at least, as a part of a tile. There the weight of
                each falls linearly towards its ends.

        Returns:
            A `Prediction` with label, index and probabilities. For multilabel data a
            `LabelsPrediction`: the labels whose probability is above `learn.thresh`, and the
            probabilities of all. For regression a `NumbersPrediction`, by name and as a tensor.
            For masks a `MaskPrediction`.

        Raises:
            DataError: the item is not an image or a text, or it cannot be read.
            TrainingError: the model cannot take the item, predictions are of another kind, or there
                are no masks to tile.
        """
        made = (
            self._predicted(item) if tile is None else tiled_prediction(self, item, tile, overlap)
        )
        if kind is not None and not isinstance(made, kind):
            right = type(made).__name__
            raise TrainingError(
                f"The task is {self.task.name}: a prediction is a {right}, not a {kind.__name__}. "
                f"Use learn.predict(item, {right})."
            )
        return made

    def _predicted(self, item: object) -> AnyPrediction:
        found, _, _ = predict_all(self, [(single_batch(self.data.load(item)), None)])
        made = self.task.decode(found[0], self.data.vocab, self.thresh)
        return self.data.placed(made, item)  # type: ignore[no-any-return] # of the same kind

    def iter_preds(
        self, items: Paths | Iterable[Sequence[str | None]] | EvalLoader | TextEvalLoader
    ) -> Iterator[tuple[Path, AnyPrediction]]:
        """Yield each image of a folder with its prediction, as in `predict`, in bounded memory.

        The images are checked first. Then they are predicted in batches, while workers prepare the
        next ones. Between two images the model is unchanged. A text comes instead of a path.

        Args:
            items: an image, a list of images, a folder, or `dls.test_dl(paths)`, which may have
                a different batch size; a list of texts, or of lists of their cells.

        Raises:
            DataError: there are no images, or some items are not texts.
            BrokenImagesError: images are broken, and the data are set to stop at them.
        """
        return predictions(self, items)

    def tta(
        self, dl: Iterable[Any] | None = None, n: int = 4, beta: float | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Test time augmentation: predictions averaged over augmented views of each item.

        As in fastai, but the views depend only on the seed of the data, so that each call returns
        the same; it changes nothing. Of masks the view is the mirrored image, and its prediction is
        mirrored back.

        Args:
            dl: `dls.test_dl(paths)`, or None for the validation items.
            n: number of views; masks have one.
            beta: weight of the items without augmentation; the views share the remaining weight.
                None is 0.25, and 0.5 for masks.

        Returns:
            As `get_preds`.

        Raises:
            TrainingError: the data have no augmentation, so there are no views; or that of masks
                never mirrors.
        """
        return averaged_predictions(self, dl, n, beta)

    # Pictures and tables

    def show_results(
        self, path: str | Path | None = None, n: int = 9, dl: Iterable[Any] | None = None
    ) -> Path | Figure:
        """Draw some validation items with targets and predictions; changes nothing.

        Args:
            path: a file ending with .png, .svg or .pdf; None returns the matplotlib figure.
            n: how many; the seed of the data selects them.
            dl: other batches, with or without targets.
        """
        return results_picture(self, path, n, batches_of(self.data, dl))

    def grad_cam(
        self, item: object, target: int | str | None = None, path: str | Path | None = None
    ) -> HeatMap:
        """Which parts of one image support a class; changes nothing. See `reports.grad_cam`.

        Args:
            item: a path, a PIL image, an array or a tensor.
            target: the class, by name or number; None for the predicted class.
            path: also draw it to a file ending with .png, .svg or .pdf.

        Raises:
            AnatomyError: the network has no spatial feature maps.
            LayerGroupsError: the class does not exist, or the file cannot be written.
        """
        found = heat_map(self, self.data.load(item), target)
        if path is not None:
            found.plot(path)
        return found

    def summary(self, detail: str = "blocks") -> ModelSummary:
        """Blocks or layers with outputs, parameters, freezing and groups; changes nothing.

        Args:
            detail: "blocks", or "layers" for a row for each layer.
        """
        return model_summary(
            self.layer_groups,
            detail=detail,
            optimizer=self.opt,
            opt_func=self.opt_func,
            loss_func=self.loss_func,
            example_input=self.data.example(),
        )

    def report(
        self, path: str | Path | None = None, *, title: str | None = None, images: bool = True
    ) -> RunReport:
        """A report of the run so far: settings, results and sample images; changes nothing.

        `learn.report("run.html")` writes one file that needs no network; without a path a notebook
        shows the page, and `print(learn.report())` shows the same facts as tables.

        Args:
            path: a file that ends in .html; None writes nothing.
            title: of the page; None uses the names of network and data.
            images: False leaves out all images, for example confidential ones.

        Raises:
            LayerGroupsError: path or title is wrong.
            CheckpointError: the file cannot be written.
        """
        made = report_on(self, path, title=title, images=images)
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

        It takes the arguments of the fit itself:

            learn.plot_schedule("fit_one_cycle", 3, slice(1e-5, 1e-3), path="rates.png")
            learn.plot_schedule("fine_tune", 4, 2e-3)
            learn.plot_schedule(OneCycle(div=10), epochs=3, lr=1e-3)

        Args:
            fit: "fit", "fit_one_cycle", "fit_flat_cos", "fine_tune" or "gradual_unfreeze"; or a
                schedule.
            *words: arguments of that fit.
            path: write the picture here, .png, .svg or .pdf.
            **named: keyword arguments of that fit.

        Returns:
            The rates as data; `print` shows a table, a notebook the picture, `save` writes it.

        Raises:
            TrainingError: the fit does not exist.
            ArgumentError: it does not take these arguments.
            LayerGroupsError: the picture cannot be written.
        """
        planned: list[Planned] = []
        self._planned = planned
        try:
            if isinstance(fit, str):
                call_fit(getattr(self, checked_fit(fit)), words, named)
            else:
                own = checked_schedule(fit)

                def by_schedule(epochs: int, lr: Rate | None = None, **options: Any) -> History:
                    return self.fit_phase(epochs, own, lr=lr, **options)

                call_fit(by_schedule, words, named)
        finally:
            self._planned = None
        made = preview_phases(self, planned)
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
        """Find learning rates by sweeps of all groups together and of each alone; changes nothing.

        In each sweep the model trains with this learner's optimizer while the rates rise in equal
        ratios; then everything is restored exactly. The sweep of all groups keeps the ratios of
        their rates; in the others one group trains and the rest are frozen. All sweeps repeat the
        same batches of the next epoch, which are read once as far as `feature_cache.memory` allows.
        Frozen groups stay frozen and get no rate. Callbacks are not called.

        Use it: `learn.fit_one_cycle(3, lr=learn.lr_find().rates)`. Train the head first: before
        that, the curves of the body mean little.

        Source: Smith 2017, «Cyclical Learning Rates for Training Neural Networks»; arguments and
        suggestions are fastai's.

        Args:
            start_lr: the first rate of the group with the highest rate.
            end_lr: its last rate.
            num_it: optimizer steps in each sweep, 20 or more.
            stop_div: end a sweep, after its first tenth, as soon as the smoothed loss is four times
                its minimum.
            show_plot: in a notebook, show the picture.
            suggest_funcs: names, or functions from (rates, losses) to a rate; the first of them
                determines `rates`.
            by_group: False for the sweep of all groups only, or the groups to try alone.

        Returns:
            Curves and suggestions; `print` shows a table, `plot("rates.png")` draws them.

        Raises:
            TrainingError: an argument is wrong, nothing trains, several processes train together,
                or the loss is not finite or diverges within the first steps.
        """
        suggest = named(suggest_funcs)
        plan = Plan(start_lr, end_lr, num_it, stop_div, suggest)
        with _gradients():
            found = find_rates(self, plan, by_group, memory=self.feature_cache.memory)
        if show_plot:
            show(found.figure)
        return found


@contextmanager
def _gradients() -> Iterator[None]:
    """A fit needs them, also if it is called under `torch.no_grad()`."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


@cache
def _attributes() -> frozenset[str]:
    declared = {name for kind in Learner.__mro__ for name in vars(kind).get("__annotations__", ())}
    return frozenset(name for name in {*dir(Learner), *declared} if not name.startswith("_"))
