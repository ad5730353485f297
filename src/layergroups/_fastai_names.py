"""What users of fastai type, and what to type here; docs/from-fastai.md says more of each.

Texts follow "X has no argument name=;" or "X has no name;" and have no full stop at the end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

_WAYS = ("from_folder", "from_lists", "from_table", "from_pattern", "from_dataset")


_DEVICE = "batches go to the device in the loop, by accelerate"


_RECIPES = (
    "learn.fit_one_cycle takes it, and so does defaults=FineTuneDefaults(schedule=OneCycle(...))"
)


_VALID = "the validation photos are meant if nothing is given, others by dl=: dl=dls.train_eval"


_AUGMENT = (
    'here size=224 resizes and augment=True varies; a word ("trivial"), Augmentation(...) or any '
    "function of a Pillow image also goes into augment="
)


_COUNT = "n= says how many there are, such as n=9; rows and columns follow from it"


_FIGURE = "give path= and a picture is written; without it the figure comes back"


# by argument; those under the name of a function are for that one alone
ARGUMENTS: Final[Mapping[str, str]] = {
    "act": "what comes back is probabilities already, or numbers",
    "batch_tfms": _AUGMENT,
    "cbs": "fits and the learner take callbacks=: learn.fit(3, callbacks=[EarlyStopping()])",
    "cpu": "it runs where accelerate finds a device; ACCELERATE_USE_CPU=1 in the environment: CPU",
    "ds_idx": _VALID,
    "figsize": _FIGURE,
    "img_cls": "the number of channels says how photos are opened: channels=1 for grey",
    "inner": "nothing is changed in any case",
    "item_tfms": _AUGMENT,
    "lr_max": "its name is lr=: learn.fit_one_cycle(3, lr=1e-3)",
    "max_n": "its name is n=, such as n=9",
    "model_dir": "its place is path=, of the learner: the folder of save and load",
    "moms": "learn.fit_one_cycle(..., moms=(0.95, 0.85, 0.95)) takes it",
    "n_epoch": "its name is epochs=: learn.fit(epochs=3), or learn.fit(3)",
    "ncols": _COUNT,
    "nrows": _COUNT,
    "pickle_module": "nothing is pickled",
    "pickle_protocol": "nothing is pickled",
    "reorder": "the order is always that of the batches",
    "reset_opt": "set learn.opt = None before the fit, and the optimizer begins anew",
    "save_preds": "use torch.save on what comes back",
    "save_targs": "use torch.save on what comes back",
    "shuffle": "training photos are shuffled by the seed, others keep their order",
    "start_epoch": 'checkpoint_dir="run", resume=True goes on where a fit was broken off',
    "val_bs": "batch_size= is for both, dls.train and dls.valid",
    "wd": "weight decay is the learner's: Learner(..., wd=0.1) or vision_learner(..., wd=0.1)",
    "thresh": "assign learn.thresh = 0.3, for predict and metrics by name",
    "max_lr": "its name is lr=: learn.fit_one_cycle(3, lr=1e-3)",
    "with_decoded": "learn.predict(photo) gives names; probabilities.argmax(1) the classes",
    "with_input": "dls.one_batch() and the batches that you give have the inputs",
    "with_preds": "probabilities and targets both come back",
    "with_targs": "probabilities and targets both come back",
    "y_block": 'what the labels are says task=: "multiclass", "multilabel" or "regression"',
    # of one function
    **{f"{way}.device": _DEVICE for way in _WAYS},
    "fine_tune.div": _RECIPES,
    "fine_tune.div_final": _RECIPES,
    "fine_tune.lr_max": "lr= has the rates of the second phase, base_lr= that of the head",
    "fine_tune.lr_mult": "lr=slice(1e-5, 1e-3) spreads the rates of the second phase",
    "fine_tune.moms": _RECIPES,
    "fine_tune.pct_start": _RECIPES,
    "from_folder.vocab": "the classes are the names of the folders; from_lists takes vocab=",
    "from_lists.fnames": "its name is files=, paths in full",
    "from_lists.path": "files= are paths in full: [folder / name for name in names]",
    "from_pattern.fnames": "its name is files=, paths in full",
    "from_pattern.label_func": "its name is pattern=: a regular expression, or a function",
    "from_pattern.pat": "its name is pattern=",
    "from_pattern.path": "its name is files=: a folder, or a list of paths",
    "from_table.csv_fname": "table= is the whole path of the file",
    "from_table.delimiter": "what separates the columns is found by itself",
    "from_table.df": "its name is table=",
    "from_table.path": "table= is the file or the frame, folder= where the photos lie",
    "test_dl.bs": "its batches have dls.batch_size photos",
    "test_dl.rm_type_tfms": "the photos are prepared as for validation",
    "test_dl.test_items": "its name is source=: dls.test_dl(paths)",
    "show_batch.b": 'it draws photos of these data: dls.show_batch("batch.png")',
    "show_batch.show": "a notebook shows what comes back",
    "export.fname": 'its name is folder=: learn.export("model")',
    "load.device": "the learner chooses the device",
    "load.file": 'its name is name=: learn.load("first")',
    "load_learner.fname": 'its name is folder=: load_learner("model")',
    "predict.rm_type_tfms": "the photo is prepared as for validation",
    "save.file": 'its name is name=: learn.save("first")',
    "save.with_opt": 'all is saved; learn.load("first", with_opt=False) leaves the optimizer out',
    "tta.use_max": "views are averaged, beta=0 leaves out the photos as they are",
    # of the learner
    "default_cbs": "a learner has no callbacks but yours: callbacks=[...]",
    "init": "give custom_head= a head that is initialised otherwise",
    "n_in": "channels= of the data decides: ImageDataLoaders.from_folder(..., channels=1)",
    "n_out": "the data decide: dls.c outputs are made",
    "normalize": "normalize= of the data has statistics; by default they are those of the weights",
    "pool": "concat_pool= chooses the pooling, custom_head= any other head",
    "split_on": "its name is split=",
    "splitter": 'split= divides the model: "auto", "classic", a number or a list of paths',
    "train_bn": 'batch_norm="update" trains all; learn.freeze(norm="train") those of frozen groups',
    "wd_bn_bias": "norms, biases and tokens never decay",
}


_LOOP = "callbacks see the Run: its inputs, targets and rows"


_CALLBACKS = "learn.callbacks is a plain list: append, remove"


_PRECISION = (
    'learn.mixed_precision = "{0}" before the next fit, or Learner(..., mixed_precision="{0}")'
)


_QUIET = "learn.progress = False shows nothing"


_SEVERAL = "torchrun or accelerate launch runs the same script in several processes"


_LEARNER: Final[Mapping[str, str]] = {
    "add_cb": _CALLBACKS,
    "add_cbs": _CALLBACKS,
    "added_cbs": "learn.fit(3, callbacks=[...]) has them for one fit",
    "all_batches": "the loop is inside; learn.dls.train gives the batches",
    "cbs": "its name is learn.callbacks",
    "create_opt": "learn.opt is made at the first fit, then it follows the model",
    "data": "its name is learn.dls",
    "distrib_ctx": _SEVERAL,
    "dl": "the batches are learn.dls.train and learn.dls.valid",
    "epoch": "learn.epochs_done counts them",
    "fit_sgdr": "learn.fit_one_cycle(3), several times, restarts the rate",
    "iter": _LOOP,
    "loss": "learn.history has the losses, and learn.validate() asks anew; " + _LOOP,
    "loss_grad": _LOOP,
    "loss_not_reduced": "learn.get_preds(with_loss=True) gives the loss of each item",
    "lr": "the rates are learn.layer_groups.rates; fits take lr=",
    "model_dir": "its name is learn.path",
    "n_epoch": "learn.epochs_done counts the epochs",
    "no_bar": _QUIET,
    "no_logging": _QUIET,
    "no_mbar": _QUIET,
    "one_batch": "learn.dls.one_batch() gives a batch; the loop is inside",
    "ordered_cbs": "learn.callbacks is in the order in which they are called",
    "parallel_ctx": _SEVERAL,
    "pred": _LOOP,
    "recorder": (
        'learn.history has the rows, learn.report("run.html") draws the losses, '
        'learn.plot_schedule("fit_one_cycle", 3) the rates, learn.lr_find().plot("rates.png") '
        "the sweep"
    ),
    "remove_cb": _CALLBACKS,
    "remove_cbs": _CALLBACKS,
    "removed_cbs": "take it out of learn.callbacks, which is a plain list",
    "show_training_loop": "the loop is layergroups/training/loop.py; print(learn.callbacks)",
    "smooth_loss": "learn.history has the mean loss of each epoch",
    "splitter": "learn.layer_groups is the division, Learner(..., split=) makes it",
    "to_bf16": _PRECISION.format("bf16"),
    "to_channelslast": "the layout is chosen by itself",
    "to_contiguous": "the layout is chosen by itself",
    "to_detach": "nothing keeps a graph",
    "to_distributed": _SEVERAL,
    "to_fp16": _PRECISION.format("fp16"),
    "to_fp32": _PRECISION.format("no"),
    "to_non_native_fp16": _PRECISION.format("fp16"),
    "to_non_native_fp32": _PRECISION.format("no"),
    "to_parallel": _SEVERAL,
    "training": "learn.model.training says it of the model",
    "validation_context": "learn.validate() and learn.get_preds() leave everything as it was",
    "wd": "its name is learn.weight_decay",
    "x": _LOOP,
    "xb": _LOOP,
    "y": _LOOP,
    "yb": _LOOP,
}


_TABLE = 'ImageDataLoaders.from_table("labels.csv") reads files, frames and dicts of columns'


_PATTERN = 'ImageDataLoaders.from_pattern("photos", {}) takes a pattern or a function'


_REGEX = _PATTERN.format('r"^(.+)_\\d+\\.jpg$"')


_FUNCTION = _PATTERN.format("lambda path: path.parent.name")


_TRANSFORMS = "dls.augment varies training photos, dls.transform prepares all"


_LOADERS: Final[Mapping[str, str]] = {
    "add_tfms": "make the data anew, with augment=",
    "after_batch": _TRANSFORMS,
    "after_item": _TRANSFORMS,
    "before_batch": _TRANSFORMS,
    "bs": "its name is dls.batch_size",
    "cpu": _DEVICE,
    "cuda": _DEVICE,
    "databunch": "the data are ready: dls.train and dls.valid",
    "dataset": "dls.train_photos and dls.valid_photos are files and labels",
    "device": _DEVICE,
    "from_csv": _TABLE,
    "from_dblock": "choose a constructor, task= and size=: " + _TABLE,
    "from_df": _TABLE,
    "from_dsets": "ImageDataLoaders.from_dataset(train, valid) takes datasets",
    "from_name_func": _FUNCTION,
    "from_name_re": _REGEX,
    "from_path_func": _FUNCTION,
    "from_path_re": _PATTERN.format('r"/([^/]+)_\\d+\\.jpg$"'),
    "items": "dls.train_photos and dls.valid_photos are files and labels",
    "loaders": "the batches are dls.train and dls.valid",
    "new": "make the data anew",
    "new_empty": 'an exported learner needs no data: learn.export("model")',
    "show_results": "its place is learn.show_results()",
    "test": "dls.test_dl(paths) makes batches of other photos",
    "tfms": _TRANSFORMS,
    "to": _DEVICE,
    "train_dl": "its name is dls.train",
    "train_ds": "files and labels are dls.train_photos, batches dls.train",
    "valid_dl": "its name is dls.valid",
    "valid_ds": "files and labels are dls.valid_photos, batches dls.valid",
}


_INTERPRETATION: Final[Mapping[str, str]] = {
    "dl": "its name is interp.batches",
    "inputs": "interp.images([0, 1]) gives them",
    "plot_results": "its place is learn.show_results()",
    "preds": "its name is interp.predictions",
    "decoded": "its name is interp.predicted",
    "print_classification_report": "print(interp.class_report()) does it",
    "show_results": "its place is learn.show_results()",
    "targs": "its name is interp.targets",
}


_CHOOSE = 'no pipeline is put together: ImageDataLoaders.from_folder("photos") or its like'


_METRIC = 'metrics go by name: vision_learner(..., metrics=["accuracy", "error_rate"])'


_SPLIT = "valid_pct=0.2 of ImageDataLoaders keeps photos for validation, or is_valid=[True, ...]"


_PACKAGE: Final[Mapping[str, str]] = {
    "CSVLogger": "its name is CSVLog",
    "CategoryBlock": _CHOOSE,
    "ClassificationInterpretation": "its name is Interpretation",
    "CrossEntropyLossFlat": 'its name is CrossEntropy, or loss_func="cross_entropy"',
    "DataBlock": _CHOOSE,
    "DataLoaders": "ImageDataLoaders, or any object with train and valid, goes into a Learner",
    "EarlyStoppingCallback": "its name is EarlyStopping",
    "GradientAccumulation": "Learner(..., accumulate=2) counts batches",
    "GradientClip": "Learner(..., clip=1.0) does it",
    "ImageBlock": _CHOOSE,
    "LabelSmoothingCrossEntropy": "CrossEntropy(label_smoothing=0.1) does it",
    "MixedPrecision": 'Learner(..., mixed_precision="bf16") does it',
    "MultiCategoryBlock": _CHOOSE,
    "Normalize": "photos are normalised as the weights need it; normalize= of the data differs",
    "RandomResizedCrop": "augment=True of ImageDataLoaders does it, or Augmentation(scale=...)",
    "RandomSplitter": _SPLIT,
    "Recorder": "learn.history has the rows",
    "RegressionBlock": _CHOOSE,
    "Resize": "size=224 of ImageDataLoaders resizes",
    "SaveModelCallback": "its name is SaveBest",
    "ShowGraphCallback": "its name is LivePlot",
    "TensorBoardCallback": "its name is Trackers",
    "TerminateOnNaNCallback": "its name is StopOnNaN",
    "WandbCallback": "its name is Trackers",
    "accuracy": _METRIC,
    "aug_transforms": "augment=True of ImageDataLoaders does it, or augment=Augmentation(...)",
    "error_rate": _METRIC,
    "get_image_files": "ImageDataLoaders.from_folder and from_pattern find the files themselves",
    "unet_learner": "there is no segmentation",
}


NAMES: Final[Mapping[str, Mapping[str, str]]] = {
    "layergroups": _PACKAGE,
    "Interpretation": _INTERPRETATION,
    "Learner": _LEARNER,
    "ImageDataLoaders": _LOADERS,
}


def argument_here(function: str, name: str) -> str:
    """What stands here in the place of an argument of fastai; empty if it is none.

    Args:
        function: its name, without that of its class; of a constructor, the class.
        name: of the argument.
    """
    return ARGUMENTS.get(f"{function}.{name}") or ARGUMENTS.get(name, "")


def attribute_here(kinds: Sequence[str], name: str) -> str:
    """What stands here in the place of an attribute of fastai; empty if it is none.

    Args:
        kinds: names of the object's class and of those it is made of; or "layergroups" itself.
        name: of the attribute.
    """
    return next((NAMES[kind][name] for kind in kinds if name in NAMES.get(kind, ())), "")
