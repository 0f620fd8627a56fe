"""UCF-10: ten body-motion classes of UCF101 at 112 pixels, for a machine without an accelerator.

    python data/prepare.py --dataset=ucf101 --videos=UCF-101 --annotations=ucfTrainTestlist --out=shards/ucf10 \
        --classes=BodyWeightSquats,HandstandPushups,HandstandWalking,JumpRope,JumpingJack,Lunges,PullUps,PushUps,TrampolineJumping,WallPushups
    python main.py --config=configs/ucf10.py --workdir=ckpt-ucf10 --config.training.weights=squeezenet1_1_imagenet.npz

Split 1, seed 0, 115 test clips: D 59.4 % mean class accuracy after ten minutes on two busy cores
(docs/results.md), A 78.4 % in an earlier version. A score on these ten classes is not a score on UCF101. Arguments are those of configs/ucf101.py;
the solver is another one: one rate for both streams, one norm for all, and a schedule that fits so few clips.
"""

import ml_collections

from configs import ucf101


def get_config(argument: str = "") -> ml_collections.ConfigDict:
    config = ucf101.staged(argument, "shards/ucf10", "ckpt-ucf10", ucf101.SCHEDULES)
    config.input.crop = 112
    config.model.dropout = 0.5
    config.optimizer.update(
        batch_size=0,
        temporal_multiplier=config.optimizer.spatial_multiplier,
        spatial_clip_norm=0.0,
        temporal_clip_norm=0.0,
        boundaries=(240,),
        warmup=20,
    )
    config.training.update(steps=320, batch_size=32, checkpoint_every=80)
    config.evaluation.update(positions=5, crops=1)
    return config
