"""Images of batches and files, found again by position."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from tests.reports.dict_models import of_images, of_sequences
from tests.training.tiny import TinyLoaders, tiny_model

from layergroups import ImageDataLoaders, Interpretation, Learner, vision_learner
from layergroups.errors import LayerGroupsError
from layergroups.reports import RunReport, record_run, write_run


def test_images_are_found_again_and_grad_cam_looks_at_them() -> None:
    learn = Learner(TinyLoaders(), tiny_model(), split=2, progress=False)
    found = Interpretation.from_learner(learn)
    images = found.images([17, 0])
    assert len(images) == 2
    assert images[0].shape == (16, 16, 3)
    spec, raw = learn.dls.input, learn.dls.valid.x[17]
    pixels = raw * torch.tensor(spec.std)[:, None, None] + torch.tensor(spec.mean)[:, None, None]
    assert torch.allclose(torch.from_numpy(images[0]), pixels.clamp(0, 1).permute(1, 2, 0))
    assert found.grad_cam([17, 0, 3]).shape == (3, 16, 16)


def test_batches_in_another_order_are_noticed() -> None:
    data = torch.utils.data.TensorDataset(torch.randn(40, 3, 16, 16), torch.arange(40) % 3)
    shuffled = torch.utils.data.DataLoader(data, 8, shuffle=True)
    found = Interpretation.from_learner(
        Learner(TinyLoaders(), tiny_model(), split=2, progress=False), shuffled
    )
    torch.manual_seed(1)  # with the random state of the first pass, the order would be the same
    with pytest.raises(LayerGroupsError, match="shuffle=False"):
        found.images(range(40))
    once = Interpretation.from_learner(cast(Any, found.learner), iter(TinyLoaders().valid))
    with pytest.raises(LayerGroupsError, match="more than once"):
        once.images([3])


@pytest.fixture
def clothes(folder: Any) -> Any:
    dls = ImageDataLoaders.from_folder(folder(cat=5, dog=5, cow=5), size=32, batch_size=4)
    return vision_learner(dls, "timm:test_resnet", pretrained=False, split=2, progress=False)


def test_photos_know_their_files(clothes: Any) -> None:
    found = Interpretation.from_learner(clothes)
    assert found.paths == clothes.dls.valid_images.paths
    assert found.classes == ("cat", "cow", "dog")
    item = found.top_losses(1)[0]
    assert item.path is not None
    assert item.path.parent.name == item.actual
    one = clothes.dls.load(item.path)
    batch = clothes.dls.valid.at([item.index])[0][0]
    assert torch.equal(one, batch)


def test_a_dict_with_images_gets_all_pictures(tmp_path: Path) -> None:
    learn = of_images()
    learn.fit(1)
    assert len(learn.show_results(n=5).axes) >= 1
    found = Interpretation.from_learner(learn)
    assert found.plot_top_losses(3, tmp_path / "top.png").is_file()
    maps = found.grad_cam(range(18))
    image = learn.dls.valid.x[2]
    one = learn.grad_cam(image)
    assert one.heat.shape == (16, 16)
    torch.testing.assert_close(one.heat, maps[2], atol=1e-4, rtol=1e-4)
    page = learn.report().html()
    assert page.count("data:image/jpeg") > 9


@pytest.mark.parametrize(
    "draw",
    [
        lambda learn: learn.show_results(),
        lambda learn: Interpretation.from_learner(learn).plot_top_losses(3),
        lambda learn: learn.grad_cam(learn.dls.valid.x[0]),
    ],
)
def test_a_dict_without_images_is_refused(draw: Callable[[Learner], Any]) -> None:
    with pytest.raises(LayerGroupsError, match=r"\(1?\d?\d?, 5, 4\)"):
        draw(of_sequences())
    assert of_sequences().report().html()


def test_file_names_that_are_not_utf_8(folder: Any, tmp_path: Path) -> None:
    root = folder(cat=6, dog=6)
    for i, file in enumerate(sorted(root.rglob("*.*"))):
        file.rename(
            os.fsdecode(os.fsencode(file.parent) + b"/caf\xe9%d" % i + os.fsencode(file.suffix))
        )
    dls = ImageDataLoaders.from_folder(root, size=32, batch_size=4, augment=False, num_workers=0)
    learn = vision_learner(dls, "timm:test_resnet", pretrained=False, split=2, progress=False)
    learn.report(tmp_path / "run.html")
    assert "caf\ufffd" in (tmp_path / "run.html").read_text(encoding="utf-8")
    write_run(learn, tmp_path / "m", record=record_run(learn))
    assert str(RunReport.read(tmp_path / "m"))
    found = Interpretation.from_learner(learn)
    assert Path(str(found.plot_top_losses(3, tmp_path / "top.png", cam=False))).is_file()
    assert Path(str(learn.show_results(tmp_path / "some.png"))).is_file()
    assert "caf\ufffd" in found._repr_html_()
