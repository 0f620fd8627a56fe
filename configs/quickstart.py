"""Moving sprites, from scratch, in minutes on a laptop.

    python data/synthesize.py --out=demo/sprites
    python data/prepare.py --dataset=folder --videos=demo/sprites --out=demo/shards --size=72x72
    python main.py --config=configs/quickstart.py --workdir=demo/run

Model D reaches 100 % of 120 test clips on seeds 0, 1 and 2, in about a minute on two cores; A some 50 %.
`make demo` runs the three. Another row of the ablation: --config=configs/quickstart.py:model=A
"""

import ml_collections

from stpyramid_jax.experiment import default_config, parse_argument
from stpyramid_jax.models.pyramid import named_model


def get_config(argument: str = "") -> ml_collections.ConfigDict:
    config = default_config()
    config.data.dir = "demo/shards"
    config.input.update(
        crop=64,
        scales=(64 / 72,),
        test_scale=64 / 72,
        flip=False,  # a mirrored hop is another hop
        # Hops follow each other every ten fields: three snippets see three in turn.
        tau=(10, 10),
        test_tau=10,
    )
    config.model.update(
        named_model(parse_argument(argument, model="D")["model"]),
        backbone="convnet",
        snippet_length=5,
        sketch_dims=(256, 256, 512),
        dropout=0.0,
        head_std=0.01,
    )
    config.optimizer.update(learning_rate=0.01, boundaries=(180,), warmup=30)
    config.training.update(steps=240, batch_size=32, checkpoint_every=80)
    config.evaluation.update(positions=5, crops=1, batch_size=16)
    return config
