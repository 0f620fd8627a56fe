"""UCF101 with the solver of Temporal Segment Networks (TSN), from ImageNet weights.

    python data/prepare.py --dataset=ucf101 --videos=UCF-101 --annotations=ucfTrainTestlist --out=shards/ucf101

Streams first, each with TSN's solver, then the pyramid from both:

    python main.py --config=configs/ucf101.py:stage=spatial --workdir=ckpt/spatial --config.training.weights=squeezenet1_1_imagenet.npz
    python main.py --config=configs/ucf101.py:stage=temporal --workdir=ckpt/temporal --config.training.weights=squeezenet1_1_imagenet.npz
    python main.py --config=configs/ucf101.py:stage=pyramid --workdir=ckpt/pyramid

or everything at once:

    python main.py --config=configs/ucf101.py --workdir=ckpt --config.training.weights=squeezenet1_1_imagenet.npz

Arguments are model (a row of the ablation: A, B, C, D; spatial or temporal is a stream alone), backbone,
split (1, 2, 3) and stage (all, spatial, temporal, pyramid), the same ones for every stage. The paper's:
--config=configs/ucf101.py:model=D,backbone=bn_inception,split=1 and
--config.training.weights=cadene/bn_inception (docs/weights.md has the names). The pyramid takes its
streams from ckpt/spatial and ckpt/temporal; elsewhere, --config.training.weights=spatial=...,temporal=...

The flow stream sees warped flow with --config.model.motion=warped (shards prepared with --warped), or
RGB differences with --config.model.motion=rgb_difference (TSN: of L = 5,
--config.model.snippet_length=5). A batch of another size takes a rate in proportion; its steps stay
as they are. What to expect: the paper has 94.6 % for model D with BN-Inception, TSN's streams alone
some 85 (RGB) and 87 (flow). Nothing of this has been run to its end here.

Sources of the numbers: TSN's published solvers; the paper's slides; notes of others about the paper;
and ours, which are choices that no source settles.
"""

from collections.abc import Mapping

import ml_collections

from stpyramid_jax.experiment import default_config, parse_argument
from stpyramid_jax.models.pyramid import named_model

STREAMS = ("spatial", "temporal")
STAGES = ("all", *STREAMS, "pyramid")

# Of each stream: the steps at which its rate drops, and its last step.
Schedules = Mapping[str, tuple[tuple[int, ...], int]]
SCHEDULES = {
    "spatial": ((1500, 3000), 3500),  # TSN: every 1500 steps
    "temporal": ((10_000, 16_000), 18_000),  # TSN
}


def get_config(argument: str = "") -> ml_collections.ConfigDict:
    return staged(argument, "shards/ucf101", "ckpt", SCHEDULES)


def staged(
    argument: str, shards: str, runs: str, schedules: Schedules
) -> ml_collections.ConfigDict:
    """A data set's training in stages, whose runs lie in the folder `runs`.

    Raises:
      ValueError: an unknown argument or stage, or a model that the stage does not train.
    """
    choice = parse_argument(argument, model="D", backbone="squeezenet", split="1", stage="all")
    model, stage = choice["model"], choice["stage"]
    if stage not in STAGES:
        raise ValueError(f"config argument stage={stage}: one of {', '.join(STAGES)}")
    if model in STREAMS and stage not in ("all", model):
        raise ValueError(
            f"config argument model={model},stage={stage}: a stream alone is stage={model}"
        )
    if model == "A" and stage == "pyramid":
        raise ValueError(
            "config argument model=A,stage=pyramid: the streams of A meet in their scores, so that "
            "nothing is trained above them; take stage=all"
        )
    model = stage if stage in STREAMS else model
    config = default_config()
    config.data.update(dir=shards, split=f"split{choice['split']}")
    config.input.update(
        crop=224,  # TSN
        # TSN: four for RGB, three for flow; one box serves both streams here
        scales=(1.0, 0.875, 0.75) if model == "temporal" else (1.0, 0.875, 0.75, 0.66),
        test_scale=0.875,  # TSN: 224 of 256
        flip=True,  # TSN
        tau=(1, 10),  # slides
        test_tau=6,  # ours; not known for the paper: in the middle of the range, and divisible
    )
    config.model.update(
        named_model(model),
        backbone=choice["backbone"],
        partial_bn=True,  # slides; of no effect on a backbone without batch normalisation
        snippet_length=10,  # slides
        sketch_dims=(1024, 2048, 4096),  # notes of others
        # TSN: .8 for RGB, .7 for flow; not known for what is fused, which takes that of RGB (ours)
        dropout=0.7 if model == "temporal" else 0.8,
        head_std=0.001,  # TSN
    )
    config.optimizer.update(
        learning_rate=0.001,  # TSN: of RGB; ours for what is fused
        batch_size=128,  # TSN
        temporal_multiplier=5.0,  # TSN: .005 for flow
        momentum=0.9,  # TSN
        weight_decay=5e-4,  # TSN
        clip_norm=40.0,  # ours, for what is fused: that of RGB
        spatial_clip_norm=40.0,  # TSN
        temporal_clip_norm=20.0,  # TSN
    )
    # Everything at once takes the flow stream's schedule, the longer one (ours): RGB then learns for
    # longer than TSN's. The pyramid takes that of RGB (ours).
    schedule = model if model in STREAMS else {"all": "temporal", "pyramid": "spatial"}[stage]
    boundaries, steps = schedules[schedule]
    config.optimizer.update(boundaries=boundaries)
    config.training.update(steps=steps, batch_size=128)  # TSN
    if stage == "pyramid":
        # Ours: streams that are trained already go on at a tenth of their rates.
        config.optimizer.update(spatial_multiplier=0.1, temporal_multiplier=0.5)
        config.training.weights = f"spatial={runs}/spatial,temporal={runs}/temporal"
    config.evaluation.update(positions=25, crops=10, batch_size=80)  # TSN
    return config
