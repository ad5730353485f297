"""Every exception and warning of the library, as one tree.

    LayerGroupsError
    ├── AnatomyError          a model could not be read by a dry run
    │   ├── LazyModuleError       it holds lazy modules that never ran
    │   └── ExampleInputError     no example input fits it
    ├── GroupingError         a rule, a freeze or a rate does not fit the groups
    │   └── GroupIndexError       there is no group of this number
    ├── ModelError            a model could not be made
    │   ├── UnknownArchitectureError
    │   ├── WeightsError          pretrained weights are absent or do not fit
    │   ├── CutError              the body cannot be cut there
    │   └── InputSizeError        the network cannot take images of this size
    ├── DataError             a folder, a file or a label is wrong
    │   └── BrokenImagesError     images that cannot be opened; lists their paths
    ├── TrainingError         a run could not start or go on
    ├── ArgumentError         a call has an argument that is not known, or lacks one
    ├── NoAttributeError      there is no attribute of this name
    ├── ConfigError           a file of settings is wrong
    ├── CheckpointError       a saved file is absent, damaged or does not fit
    └── TransplantError       nothing can go from one model to another, or not as asked


An error of this library says what was wrong, what was expected and which call would be right;
the original cause, where there is one, is chained to it.
"""

from __future__ import annotations


class LayerGroupsError(Exception):
    """Root of all errors that this library raises on purpose."""


class AnatomyError(LayerGroupsError):
    """A model could not be read by a dry run."""


class LazyModuleError(AnatomyError):
    """The model holds lazy modules whose shapes are not known yet."""


class ExampleInputError(AnatomyError):
    """No example input is known for the model, or the given one does not fit it."""


class GroupingError(LayerGroupsError, ValueError):
    """A split rule, a freeze or a learning rate does not fit the layer groups."""


class GroupIndexError(GroupingError, IndexError):
    """There is no layer group of this number."""


class ModelError(LayerGroupsError):
    """A model could not be made."""


class UnknownArchitectureError(ModelError, ValueError):
    """No library knows an architecture of this name."""


class WeightsError(ModelError):
    """Pretrained weights could not be had, or do not fit the model."""


class CutError(ModelError, ValueError):
    """The body cannot be cut from the network at this place."""


class InputSizeError(ModelError, ValueError):
    """The network cannot take images of this size."""


class DataError(LayerGroupsError, ValueError):
    """A folder, a file or a label is not what was expected."""


class BrokenImagesError(DataError):
    """Some images cannot be opened; the message lists their paths and reasons."""


class TrainingError(LayerGroupsError):
    """A training run could not start, or could not go on."""


class ArgumentError(LayerGroupsError, TypeError):
    """A call has an argument that is not known, too many by position, or lacks one."""


class NoAttributeError(LayerGroupsError, AttributeError):
    """There is no attribute of this name; perhaps it has another one here."""


class ConfigError(LayerGroupsError, ValueError):
    """A file of settings cannot be read, or a setting in it is wrong."""


class CheckpointError(LayerGroupsError):
    """A saved file is absent, damaged, or does not fit the learner."""


class TransplantError(LayerGroupsError, ValueError):
    """Nothing can be carried from one model to another, or not in the way that was asked for."""
