"""One image: opened, checked, cached, transformed."""

from layergroups.data.image._decoded_cache import DecodedCache
from layergroups.data.image._image_checks import (
    BrokenImage,
    OnError,
    available_cores,
    broken_images_error,
    check_images,
    check_on_error,
    drop_broken,
    progress,
    reading_threads,
    reason_of,
    report_broken,
)
from layergroups.data.image._opening import (
    ARRAY_ENDINGS,
    IMAGE_ENDINGS,
    Array,
    Picture,
    Size,
    height_and_width,
    open_image,
    open_picture,
    picture_of,
    quiet,
    reduced_picture,
    refuse_pipe,
    size_of_image,
)
from layergroups.data.image._transforms import (
    CROP_PCT,
    Augmentation,
    EvalTransform,
    ImageSource,
    TrainTransform,
    Transform,
    as_size,
    normalise,
    opened,
    transform_from_config,
)

__all__ = [
    "ARRAY_ENDINGS", "CROP_PCT", "IMAGE_ENDINGS", "Array", "Augmentation", "BrokenImage",
    "DecodedCache", "EvalTransform", "ImageSource", "OnError", "Picture", "Size", "TrainTransform",
    "Transform", "as_size", "available_cores", "broken_images_error", "check_images",
    "check_on_error", "drop_broken", "height_and_width", "normalise", "open_image", "open_picture",
    "opened", "picture_of", "progress", "quiet", "reading_threads", "reason_of", "reduced_picture",
    "refuse_pipe", "report_broken", "size_of_image", "transform_from_config",
]  # fmt: skip
