"""Models of libraries for tables, graphs, sound, diffusion, densities and spikes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from benchmarks.coverage.field.vision import Builders, images
from torch import nn


def diffusers() -> Builders:
    import diffusers as d

    step = torch.tensor([3, 5])
    unet = dict(block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=8, in_channels=3,
                out_channels=3, attention_head_dim=8)  # fmt: skip
    cross = dict(down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), cross_attention_dim=16)
    up = dict(up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"))
    vae = dict(block_out_channels=(16, 32), norm_num_groups=8, latent_channels=4,
               down_block_types=("DownEncoderBlock2D",) * 2,
               up_block_types=("UpDecoderBlock2D",) * 2)  # fmt: skip
    words = torch.rand(2, 6, 16)
    control = {**unet}
    del control["out_channels"]
    return {
        "UNet2DModel": lambda: (
            d.UNet2DModel(**unet, sample_size=32, down_block_types=("DownBlock2D", "AttnDownBlock2D"),
                          up_block_types=("AttnUpBlock2D", "UpBlock2D")),
            (images(32), step),
        ),
        "UNet2DConditionModel": lambda: (
            d.UNet2DConditionModel(**unet, **cross, **up), (images(32), step, words),
        ),
        "ControlNetModel": lambda: (
            d.ControlNetModel(**control, **cross, conditioning_embedding_out_channels=(8, 16)),
            {"sample": images(16), "timestep": step, "encoder_hidden_states": words,
             "controlnet_cond": images(32)},
        ),
        "AutoencoderKL": lambda: (d.AutoencoderKL(**vae), images(32)),
        "VQModel": lambda: (d.VQModel(**vae, num_vq_embeddings=32), images(32)),
        "DiTTransformer2DModel": lambda: (
            d.DiTTransformer2DModel(num_attention_heads=2, attention_head_dim=8, num_layers=4,
                                    sample_size=8, norm_num_groups=4, num_embeds_ada_norm=10),
            {"hidden_states": images(8, channels=4), "timestep": step, "class_labels": step},
        ),
        "SD3Transformer2DModel": lambda: (
            d.SD3Transformer2DModel(sample_size=16, in_channels=4, out_channels=4, num_layers=4,
                                    attention_head_dim=8, num_attention_heads=2,
                                    joint_attention_dim=16, caption_projection_dim=16,
                                    pooled_projection_dim=24, pos_embed_max_size=16),
            {"hidden_states": images(16, channels=4), "encoder_hidden_states": words,
             "pooled_projections": torch.rand(2, 24), "timestep": step},
        ),
        "PriorTransformer": lambda: (
            d.PriorTransformer(num_attention_heads=2, attention_head_dim=8, num_layers=4,
                               embedding_dim=12, num_embeddings=6),
            {"hidden_states": torch.rand(2, 12), "timestep": step,
             "proj_embedding": torch.rand(2, 12), "encoder_hidden_states": torch.rand(2, 6, 12)},
        ),
    }  # fmt: skip


def torch_geometric() -> Builders:
    import torch_geometric.nn as g
    from torch_geometric.data import Batch, Data

    x = torch.rand(10, 8)
    ring = torch.stack([torch.arange(10), torch.arange(1, 11) % 10])
    edges = torch.cat([ring, ring.flip(0)], 1)

    class Graphs(nn.Module):
        """Classifies whole graphs."""

        def __init__(self) -> None:
            super().__init__()
            self.gnn = g.GIN(8, 16, num_layers=4)
            self.lin = nn.Linear(16, 3)

        def forward(self, batch: Any) -> torch.Tensor:
            h = self.gnn(batch.x, batch.edge_index)
            return self.lin(g.global_mean_pool(h, batch.batch))

    class GCN(nn.Module):
        """Classifies nodes."""

        def __init__(self) -> None:
            super().__init__()
            self.c1, self.c2, self.c3 = g.GCNConv(8, 16), g.GCNConv(16, 16), g.GCNConv(16, 3)

        def forward(self, x: torch.Tensor, edge_index: torch.Tensor) -> torch.Tensor:
            h = self.c2(self.c1(x, edge_index).relu(), edge_index).relu()
            return self.c3(h, edge_index)

    def graphs() -> Batch:
        return Batch.from_data_list([Data(x=x, edge_index=edges), Data(x=x + 1, edge_index=edges)])

    def basic(kind: str, **options: Any) -> Callable[[], tuple[nn.Module, Any]]:
        return lambda: (
            getattr(g, kind)(8, 16, num_layers=3, out_channels=3, **options),
            (x, edges),
        )

    return {
        "GCN of three layers": lambda: (GCN(), (x, edges)),
        "GraphSAGE": basic("GraphSAGE"),
        "GAT": basic("GAT"),
        "GIN": basic("GIN"),
        "GCN with jumping knowledge": basic("GCN", jk="cat"),
        "graph classifier on a Batch": lambda: (Graphs(), graphs()),
        "graph classifier, Batch in a tuple": lambda: (Graphs(), (graphs(),)),
    }


def torchaudio() -> Builders:
    from torchaudio import models as m

    def wav2vec2(aux: int | None) -> nn.Module:
        return m.wav2vec2_model(
            "group_norm", [(16, 8, 4), (16, 4, 2), (16, 2, 2)], False, 32, 0.1, 16, 4, 4, 4, 0.1, 48,
            0.1, 0.1, False, 0.1, aux,
        )  # fmt: skip

    lengths = torch.tensor([20, 20])
    return {
        "wav2vec2 with a CTC head": lambda: (wav2vec2(30), torch.randn(2, 1000)),
        "wav2vec2": lambda: (wav2vec2(None), torch.randn(2, 1000)),
        "Conformer": lambda: (
            m.Conformer(16, 2, 32, 4, 7), (torch.rand(2, 20, 16), lengths),
        ),
        "DeepSpeech": lambda: (m.DeepSpeech(16, 32, 12), torch.rand(2, 1, 10, 16)),
        "Wav2Letter": lambda: (m.Wav2Letter(12, "mfcc", 13), torch.rand(2, 13, 100)),
        "ConvTasNet": lambda: (
            m.ConvTasNet(2, 16, 16, 3, 16, 24, 2, 2), torch.rand(2, 1, 400),
        ),
        "Tacotron2": lambda: (
            m.Tacotron2(n_mels=8, n_symbol=20, symbol_embedding_dim=16, encoder_embedding_dim=16,
                        decoder_rnn_dim=16, attention_rnn_dim=16, attention_hidden_dim=8,
                        prenet_dim=8, postnet_embedding_dim=16, attention_location_n_filter=4),
            (torch.randint(0, 20, (2, 9)), torch.tensor([9, 9]), torch.rand(2, 8, 6),
             torch.tensor([6, 6])),
        ),
    }  # fmt: skip


def speechbrain() -> Builders:
    from speechbrain.lobes.models.CRDNN import CRDNN
    from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN, Classifier
    from speechbrain.lobes.models.Xvector import Xvector

    ecapa = dict(channels=[16, 16, 16, 32], kernel_sizes=[5, 3, 3, 1], dilations=[1, 2, 3, 1],
                 attention_channels=8, lin_neurons=12, res2net_scale=2, se_channels=8)  # fmt: skip
    return {
        "ECAPA-TDNN with a cosine classifier": lambda: (
            nn.Sequential(ECAPA_TDNN(20, **ecapa), Classifier(12, out_neurons=7)),
            torch.rand(2, 30, 20),
        ),
        "CRDNN": lambda: (
            nn.Sequential(
                CRDNN(input_shape=[None, None, 20], cnn_blocks=2, cnn_channels=(8, 8), rnn_layers=1,
                      rnn_neurons=16, dnn_neurons=24),
                nn.Linear(24, 9),
            ),
            torch.rand(2, 24, 20),
        ),
        "Xvector": lambda: (
            Xvector(device="cpu", in_channels=20, tdnn_blocks=3, tdnn_channels=[16, 16, 32],
                    tdnn_kernel_sizes=[5, 3, 1], tdnn_dilations=[1, 2, 1], lin_neurons=12),
            torch.rand(2, 30, 20),
        ),
    }  # fmt: skip


def tabular() -> Builders:
    from pytorch_tabnet.tab_network import TabNet
    from rtdl_revisiting_models import MLP, FTTransformer, ResNet

    numbers, classes = torch.rand(4, 5), torch.randint(0, 3, (4, 2))
    return {
        "TabNet": lambda: (
            TabNet(5, 3, n_d=8, n_a=8, n_steps=3, group_attention_matrix=torch.eye(5)), numbers,
        ),
        "FTTransformer": lambda: (
            FTTransformer(n_cont_features=5, cat_cardinalities=[3, 3], d_out=4,
                          **{**FTTransformer.get_default_kwargs(3), "d_block": 32,
                             "attention_n_heads": 4}),
            (numbers, classes),
        ),
        "ResNet": lambda: (
            ResNet(d_in=5, d_out=4, n_blocks=4, d_block=16, d_hidden=None, d_hidden_multiplier=2.0,
                   dropout1=0.1, dropout2=0.0), numbers,
        ),
        "MLP": lambda: (MLP(d_in=5, d_out=4, n_blocks=4, d_block=16, dropout=0.1), numbers),
    }  # fmt: skip


def nflows() -> Builders:
    from nflows import distributions, flows, transforms

    class Density(nn.Module):
        """Gives the log density, as training does."""

        def __init__(self, flow: nn.Module) -> None:
            super().__init__()
            self.flow = flow

        def forward(self, x: torch.Tensor) -> Any:
            return self.flow.log_prob(x)

    def maf() -> nn.Module:
        return Density(flows.MaskedAutoregressiveFlow(4, 16, num_layers=3, num_blocks_per_layer=1))

    def spline() -> nn.Module:
        steps = [
            transforms.MaskedPiecewiseRationalQuadraticAutoregressiveTransform(
                4, 16, num_blocks=1, tails="linear", tail_bound=3.0
            )
            for _ in range(3)
        ]
        composed = transforms.CompositeTransform(steps)
        return Density(flows.Flow(composed, distributions.StandardNormal([4])))

    return {
        "masked autoregressive flow": lambda: (maf(), torch.rand(4, 4)),
        "neural spline flow": lambda: (spline(), torch.rand(4, 4)),
    }


def snntorch() -> Builders:
    import snntorch as s

    class Spiking(nn.Module):
        """Runs over ten time steps."""

        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.lif1 = nn.Linear(8, 16), s.Leaky(beta=0.9)
            self.fc2, self.lif2 = nn.Linear(16, 16), s.Leaky(beta=0.9)
            self.fc3, self.lif3 = nn.Linear(16, 3), s.Leaky(beta=0.9)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            m1, m2, m3 = (lif.init_leaky() for lif in (self.lif1, self.lif2, self.lif3))
            spikes = []
            for _ in range(10):
                s1, m1 = self.lif1(self.fc1(x), m1)
                s2, m2 = self.lif2(self.fc2(s1), m2)
                s3, m3 = self.lif3(self.fc3(s2), m3)
                spikes.append(s3)
            return torch.stack(spikes)

    return {"leaky neurons over time": lambda: (Spiking(), torch.rand(4, 8))}


def mambapy() -> Builders:
    from mambapy.mamba import Mamba, MambaConfig

    ids = torch.randint(0, 64, (2, 12))
    return {
        "Mamba": lambda: (
            nn.Sequential(
                nn.Embedding(64, 16), Mamba(MambaConfig(d_model=16, n_layers=4)), nn.Linear(16, 64)
            ),
            ids,
        ),
    }


def pytorch_lightning() -> Builders:
    import pytorch_lightning as pl
    from torchvision.models import resnet18

    class Lit(pl.LightningModule):
        """As the tutorials of Lightning write it."""

        def __init__(self) -> None:
            super().__init__()
            backbone = resnet18()
            self.feature_extractor = nn.Sequential(*list(backbone.children())[:-1])
            self.classifier = nn.Linear(backbone.fc.in_features, 5)

        def forward(self, x: torch.Tensor) -> Any:
            return self.classifier(self.feature_extractor(x).flatten(1))

    return {"transfer learning": lambda: (Lit(), images(64))}
