"""What images and their labels are like, as a table, a picture and facts."""

from layergroups.data.inspect._data_summary import (
    DataSummary,
    common_folder,
    image_facts,
    summarise,
)
from layergroups.data.inspect._show_batch import BatchPicture, draw_batch

__all__ = [
    "BatchPicture", "DataSummary", "common_folder", "draw_batch", "image_facts", "summarise",
]  # fmt: skip
