"""UCF101 with the solver of Temporal Segment Networks (TSN), from ImageNet weights.

    python data/prepare.py --dataset=ucf101 --videos=UCF-101 --annotations=ucfTrainTestlist --out=shards/ucf101
    python main.py --config=configs/ucf101.py --workdir=ckpt --config.training.weights=squeezenet1_1_imagenet.npz

Other rows of the ablation, backbones and splits: --config=configs/ucf101.py:model=A,backbone=resnet50,split=2
with --config.training.weights=torchvision/resnet50 (docs/weights.md has the names). The flow stream sees
warped flow with --config.model.motion=warped (shards prepared with --warped), or RGB differences with
--config.model.motion=rgb_difference (TSN: of L = 5, --config.model.snippet_length=5). This has not
been run to its end yet: no accuracy is known. Numbers marked TSN are those of its RGB stream.
"""

import ml_collections

from stpyramid_jax.experiment import default_config, parse_argument
from stpyramid_jax.models.pyramid import named_model


def get_config(argument: str = "") -> ml_collections.ConfigDict:
    choice = parse_argument(argument, model="D", backbone="squeezenet", split="1")
    config = default_config()
    config.data.update(dir="shards/ucf101", split=f"split{choice['split']}")
    config.input.update(
        crop=224,  # TSN
        scales=(1.0, 0.875, 0.75, 0.66),  # TSN; one box serves both streams here
        test_scale=0.875,  # TSN: 224 of 256
        flip=True,  # TSN
        tau=(1, 10),  # slides
        test_tau=5,  # not known for the paper: the middle of the range
    )
    config.model.update(
        named_model(choice["model"]),
        backbone=choice["backbone"],
        partial_bn=True,  # slides; of no effect on a backbone without batch normalisation
        snippet_length=10,  # slides
        sketch_dims=(1024, 2048, 4096),  # third-party notes of the paper
        dropout=0.8,  # TSN
        head_std=0.001,  # TSN
    )
    config.optimizer.update(
        learning_rate=0.001,  # TSN
        boundaries=(1500, 3000),  # TSN: every 1500 steps
        momentum=0.9,  # TSN
        weight_decay=5e-4,  # TSN
        clip_norm=40.0,  # TSN
    )
    config.training.update(steps=3500, batch_size=128)  # TSN
    config.evaluation.update(positions=25, crops=10, batch_size=8)  # TSN
    return config
