"""The public names: read by type checkers, and by the lazy imports of `__init__.py`."""

from .anatomy import (
    Anatomy as Anatomy,
)
from .anatomy import (
    read_anatomy as read_anatomy,
)
from .checkpoints import (
    Transplant as Transplant,
)
from .checkpoints import (
    transplant as transplant,
)
from .data import (
    Augmentation as Augmentation,
)
from .data import (
    ImageDataLoaders as ImageDataLoaders,
)
from .data import (
    SegmentationDataLoaders as SegmentationDataLoaders,
)
from .data import (
    TextDataLoaders as TextDataLoaders,
)
from .errors import (
    DataError as DataError,
)
from .errors import (
    LayerGroupsError as LayerGroupsError,
)
from .groups import (
    LayerGroup as LayerGroup,
)
from .groups import (
    LayerGroups as LayerGroups,
)
from .groups import (
    decay as decay,
)
from .input_spec import InputSpec as InputSpec
from .models import (
    Cut as Cut,
)
from .models import (
    change_input_channels as change_input_channels,
)
from .models import (
    create_body as create_body,
)
from .models import (
    create_head as create_head,
)
from .models import (
    grow_head as grow_head,
)
from .models import (
    list_models as list_models,
)
from .models import (
    load_model as load_model,
)
from .models import (
    replace_head as replace_head,
)
from .models import (
    shrink_head as shrink_head,
)
from .reports import (
    Interpretation as Interpretation,
)
from .reports import (
    RunReport as RunReport,
)
from .reports import (
    grad_cam as grad_cam,
)
from .training import (
    L1 as L1,
)
from .training import (
    BinaryCrossEntropy as BinaryCrossEntropy,
)
from .training import (
    BinaryDiceLoss as BinaryDiceLoss,
)
from .training import (
    BinaryFocalLoss as BinaryFocalLoss,
)
from .training import (
    Callback as Callback,
)
from .training import (
    CrossEntropy as CrossEntropy,
)
from .training import (
    CSVLog as CSVLog,
)
from .training import (
    CutMix as CutMix,
)
from .training import (
    DiceLoss as DiceLoss,
)
from .training import (
    EarlyStopping as EarlyStopping,
)
from .training import (
    EpochRow as EpochRow,
)
from .training import (
    FeatureCacheConfig as FeatureCacheConfig,
)
from .training import (
    FineTuneDefaults as FineTuneDefaults,
)
from .training import (
    Flat as Flat,
)
from .training import (
    FlatCos as FlatCos,
)
from .training import (
    FocalLoss as FocalLoss,
)
from .training import (
    GradualUnfreezing as GradualUnfreezing,
)
from .training import (
    History as History,
)
from .training import (
    Huber as Huber,
)
from .training import (
    Learner as Learner,
)
from .training import (
    LivePlot as LivePlot,
)
from .training import (
    MeanSquaredError as MeanSquaredError,
)
from .training import (
    MixUp as MixUp,
)
from .training import (
    OneCycle as OneCycle,
)
from .training import (
    ProgressiveSizes as ProgressiveSizes,
)
from .training import (
    ReduceLROnPlateau as ReduceLROnPlateau,
)
from .training import (
    SaveBest as SaveBest,
)
from .training import (
    Schedule as Schedule,
)
from .training import (
    StopOnNaN as StopOnNaN,
)
from .training import (
    SumLoss as SumLoss,
)
from .training import (
    Thaw as Thaw,
)
from .training import (
    Trackers as Trackers,
)
from .training import (
    cnn_learner as cnn_learner,
)
from .training import (
    load_learner as load_learner,
)
from .training import (
    segmentation_learner as segmentation_learner,
)
from .training import (
    text_learner as text_learner,
)
from .training import (
    unet_learner as unet_learner,
)
from .training import (
    vision_learner as vision_learner,
)

__version__: str
