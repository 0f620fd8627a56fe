"""HMDB51 with the solver of Temporal Segment Networks (TSN), from ImageNet weights.

    python data/prepare.py --dataset=hmdb51 --videos=hmdb51_org.rar --annotations=testTrainMulti_7030_splits --out=shards/hmdb51
    python main.py --config=configs/hmdb51.py:stage=spatial --workdir=ckpt-hmdb51/spatial --config.training.weights=squeezenet1_1_imagenet.npz
    python main.py --config=configs/hmdb51.py:stage=temporal --workdir=ckpt-hmdb51/temporal --config.training.weights=squeezenet1_1_imagenet.npz
    python main.py --config=configs/hmdb51.py:stage=pyramid --workdir=ckpt-hmdb51/pyramid

or everything at once:

    python main.py --config=configs/hmdb51.py --workdir=ckpt-hmdb51 --config.training.weights=squeezenet1_1_imagenet.npz

Arguments and solver are those of configs/ucf101.py; the schedules are shorter, as TSN's are. The pyramid
takes its streams from ckpt-hmdb51. What to expect: the paper has 68.9 % for model D with BN-Inception,
TSN 68.5 for its streams. Nothing of this has been run to its end here. Streams of UCF101 can start
those of HMDB51: --config.training.weights=ckpt/spatial.
"""

import ml_collections

from configs.ucf101 import staged

# Of each stream: the steps at which its rate drops, and its last step.
SCHEDULES = {
    "spatial": ((1000, 2000), 2500),  # TSN: every 1000 steps
    "temporal": ((4000, 6000), 7000),  # TSN
}


def get_config(argument: str = "") -> ml_collections.ConfigDict:
    return staged(argument, "shards/hmdb51", "ckpt-hmdb51", SCHEDULES)
