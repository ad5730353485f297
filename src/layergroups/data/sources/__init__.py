"""Folders, tables, lists and datasets, read into samples."""

from layergroups.data.sources._datasets import (
    Items,
    check_dataset,
    is_dataset,
    items_of,
    name_at,
    read_datasets,
    read_test_dataset,
)
from layergroups.data.sources._folder import find_images, read_folder, read_labelled
from layergroups.data.sources._lists import (
    Files,
    Labeller,
    find_files,
    labels_by_name,
    list_of_files,
    marked,
    read_lists,
    read_unlabelled,
    samples_of,
    sound_positions,
)
from layergroups.data.sources._mask_classes import Classes
from layergroups.data.sources._mask_readers import (
    LayerReader,
    MaskReader,
    reader_from_config,
    values_of,
)
from layergroups.data.sources._masks import (
    masked_samples,
    masks_by,
    paired,
    paired_by_label,
    paths_of_masks,
    read_masked,
)
from layergroups.data.sources._settings import Options, Settings, check_batch_size
from layergroups.data.sources._table import (
    Column,
    Table,
    labels_of,
    marks_of,
    read_table,
    rows_of,
)
from layergroups.data.sources._text_sources import (
    TextOptions,
    TextSettings,
    joined_cells,
    labelled_texts,
    texts_of,
)

__all__ = [
    "Classes",
    "Column",
    "Files",
    "Items",
    "Labeller",
    "LayerReader",
    "MaskReader",
    "Options",
    "Settings",
    "Table",
    "TextOptions",
    "TextSettings",
    "check_batch_size",
    "check_dataset",
    "find_files",
    "find_images",
    "is_dataset",
    "items_of",
    "joined_cells",
    "labelled_texts",
    "labels_by_name",
    "labels_of",
    "list_of_files",
    "marked",
    "marks_of",
    "masked_samples",
    "masks_by",
    "name_at",
    "paired",
    "paired_by_label",
    "paths_of_masks",
    "read_datasets",
    "read_folder",
    "read_labelled",
    "read_lists",
    "read_masked",
    "read_table",
    "read_test_dataset",
    "read_unlabelled",
    "reader_from_config",
    "rows_of",
    "samples_of",
    "sound_positions",
    "texts_of",
    "values_of",
]  # fmt: skip
