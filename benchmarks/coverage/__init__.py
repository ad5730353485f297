"""How far it reaches: every architecture of torchvision, timm and transformers, checked.

    python -m benchmarks.coverage                      # all; goes on where it stopped
    python -m benchmarks.coverage --sample 2           # two per family of timm, and so on
    python -m benchmarks.coverage --only timm:resnet18 timm:vit_tiny_patch16_224

Writes `results.csv` (a row each) and `results.md` (a summary) beside this file.
"""
