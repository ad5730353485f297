"""Writes the fixtures of format 2: run with the code of commit 648e7f2."""
import json, pathlib, sys
import numpy as np, torch
from PIL import Image
from torch import nn
from layergroups import ImageDataLoaders, Learner, load_model, vision_learner
out = pathlib.Path(sys.argv[1]); photos = pathlib.Path('/tmp/fix/photos2')
rng = np.random.default_rng(0)
paths = []
for i in range(18):
    a = rng.integers(0, 60, (24, 24, 3)).astype('uint8'); a[..., i % 3] += 150
    f = photos / f'{i:02}.png'; f.parent.mkdir(parents=True, exist_ok=True); Image.fromarray(a).save(f); paths.append(f)
names = ['cat', 'dog', 'owl']
labels = {'multiclass': [names[i % 3] for i in range(18)],
          'multilabel': [[names[i % 3]] + (['even'] if i % 4 == 0 else []) for i in range(18)],
          'regression': [float(i) for i in range(18)]}
def net(c):
    torch.manual_seed(0)
    return nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.BatchNorm2d(4), nn.ReLU()), nn.Sequential(nn.Conv2d(4, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()), nn.Linear(8, c))
expected = {}
def note(learn): 
    p, _ = learn.get_preds(); return p.tolist()
for task, y in labels.items():
    dls = ImageDataLoaders.from_lists(paths, y, seed=1, size=24, batch_size=4, num_workers=0)
    learn = Learner(dls, net(dls.c), progress=False, path=out, seed=3)
    learn.freeze(); learn.fit_one_cycle(2, 1e-2, checkpoint_dir=out/f'{task}-run', checkpoint_every=3)
    learn.save(task)
    expected[task] = {'task': dls.task, 'vocab': list(dls.vocab), 'labels': y, 'checkpoint': note(learn)}
    if task != 'regression':
        m = load_model('timm:test_resnet', pretrained=False, channels=(4, 4, 8, 8), stem_width=4) if False else 'timm:test_resnet'
        torch.manual_seed(0)
        learn = vision_learner(dls, m, pretrained=False, lin_ftrs=[], concat_pool=False, progress=False, seed=3)
        learn.fit(1, 1e-3)
        with torch.no_grad():
            for p in learn.model.parameters(): p.copy_((p * 16).round() / 16)
        learn.export(out/f'{task}-export')
        expected[task]['export'] = note(learn)
(out/'expected.json').write_text(json.dumps(expected))
