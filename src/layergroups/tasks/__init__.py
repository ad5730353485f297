"""What a model is asked to predict."""

from layergroups.tasks._task import OLD_NAMES, task_named

__all__ = ["OLD_NAMES", "task_named"]
