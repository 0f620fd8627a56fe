"""Configurations: every wrong one is refused in one line that names the key."""

import pytest

from stpyramid_jax.experiment import (
    build_experiment,
    check_workdir,
    default_config,
    load_experiment,
    nearest_key,
    parse_argument,
    run_record,
    write_record,
)


def config(**changes):
    values = {
        "seed": 0,
        "profile": False,
        "data": {"dir": "shards"},
        "input": {"crop": 16},
        "model": {"backbone": "convnet", "snippet_length": 2},
        "optimizer": {"learning_rate": 0.1},
        "training": {"steps": 2, "batch_size": 4},
        "evaluation": {},
        "mesh": {},
    }
    for path, value in changes.items():
        section, _, key = path.partition("__")
        if key:
            values[section] = {**values[section], key: value}
        else:
            values[section] = value
    return values


class Shards:
    """Stands for a prepared data set of two classes."""

    name, digest, classes = "toy", "abc", ("Jump", "Run")
    parameters = {"size": [72, 72], "flow": {"method": "tvl1"}}  # noqa: RUF012 - never changed


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model__snipets": 3}, r"model\.snipets: unknown; did you mean model\.snippets\?"),
        ({"modle": {}}, r"config key modle: unknown; did you mean model\?"),
        ({"model__num_classes": 3}, r"model\.num_classes: unknown"),
        ({"optimizer": {}}, r"optimizer\.learning_rate: missing"),
        ({"model__snippets": 0}, r"model\.snippets=0: at least 1"),
        ({"model__sketch_dims": (0, 8, 8)}, r"model\.sketch_dims=\(0, 8, 8\)"),
        ({"model__sketch_dims": (8, 8)}, r"model\.sketch_dims"),
        ({"model__backbone": "squeezent"}, r"did you mean 'squeezenet'\?"),
        ({"model__stream_fusion": "prod"}, r"model\.stream_fusion='prod': one of score, concat"),
        ({"model__motion": "flwo"}, r"model\.motion='flwo': .*did you mean 'flow'\?"),
        ({"input__motion": "warped"}, r"input\.motion: unknown"),
        ({"model__dropout": 1.0}, r"model\.dropout=1\.0"),
        ({"model__attention": 1}, r"model\.attention=1: must be bool"),
        ({"training__steps": 2.5}, r"training\.steps=2\.5: must be int"),
        ({"training__steps": True}, r"training\.steps=True: must be int"),
        ({"training__batch_size": 0}, r"training\.batch_size=0: at least 1"),
        ({"evaluation__crops": 4}, r"evaluation\.crops=4: 1 \(centre\)"),
        ({"seed": -1}, r"seed=-1: at least 0"),
        ({"evaluation__positions": -1}, r"evaluation\.positions=-1: at least 1"),
        ({"input__tau": (3, 1)}, r"input\.tau=\(3, 1\)"),
        ({"optimizer__learning_rate": "fast"}, r"optimizer\.learning_rate='fast': must be float"),
        ({"seed": "x"}, r"seed='x': must be int"),
        ({"profile": 1}, r"profile=1: must be bool"),
        ({"mesh__data": 0}, r"mesh\.data=0: at least 1, or -1 for the rest"),
        ({"data__validation": 1.0}, r"data\.validation=1\.0: at least 0 and less than 1"),
        ({"training__patience": -1}, r"training\.patience=-1: at least 0"),
        ({"training__label_smoothing": 1.0}, r"training\.label_smoothing=1\.0"),
        ({"training__accumulate": 3}, r"batch_size=4 in training\.accumulate=3 parts: give a div"),
        ({"training__accumulate": 0}, r"training\.accumulate=0: at least 1"),
        ({"evaluation__positions": 0}, r"evaluation\.positions=0: at least 1"),
    ],
)
def test_wrong_configurations_are_refused(changes, message):
    with pytest.raises(ValueError, match=message) as refused:
        build_experiment(config(**changes), num_classes=2)
    assert "\n" not in str(refused.value)


def test_sections_take_what_belongs_to_the_model():
    experiment = build_experiment(
        config(
            model__streams="temporal",
            model__attention=False,
            model__snippets=5,
            model__motion="warped",
            optimizer__clip_norm=3,
        ),
        2,
    )
    assert experiment.input.streams == "temporal"
    assert experiment.input.motion == "warped"
    assert experiment.input.snippets == 5
    assert experiment.input.snippet_length == 2
    assert experiment.model.num_classes == 2
    assert isinstance(experiment.optimizer.clip_norm, float)


@pytest.mark.parametrize("motion", ["flow", "warped", "rgb_difference"])
@pytest.mark.parametrize("streams", ["spatial", "temporal", "both"])
def test_a_batch_holds_what_the_model_takes(streams, motion):
    """And only what is looked at is read."""
    for attention in {streams != "temporal", False}:
        fields = {"streams": streams, "motion": motion, "attention": attention}
        experiment = build_experiment(config(model={"backbone": "convnet", **fields}), 2)
        assert experiment.input.inputs == tuple(experiment.model.layouts)
        moves = streams != "spatial" or attention
        read = {"rgb"} if streams != "temporal" or motion == "rgb_difference" else set()
        read |= {motion} if moves and motion != "rgb_difference" else set()
        assert sorted(experiment.input.families) == sorted(read)


def test_a_workdir_gives_its_experiment_back(tmp_path):
    experiment = build_experiment(config(), 2)
    write_record(tmp_path, run_record(experiment, Shards))
    again, dataset = load_experiment(tmp_path)
    assert again == experiment
    assert dataset["classes"] == ["Jump", "Run"]
    with pytest.raises(ValueError, match=r"nowhere/config\.json: no such file"):
        load_experiment(tmp_path / "nowhere")
    for damage in ("{", "[1]", "{}", '{"data": {}}', '{"data": 3}'):
        (tmp_path / "config.json").write_text(damage)
        with pytest.raises(ValueError, match=r"config\.json: (damaged|of another version)"):
            load_experiment(tmp_path)


def test_a_run_that_is_older_than_a_key_had_its_default(tmp_path):
    record = run_record(build_experiment(config(), 2), Shards)
    old = {**record, "model": {k: v for k, v in record["model"].items() if k != "stream_scores"}}
    write_record(tmp_path, old)
    check_workdir(tmp_path, record)
    assert load_experiment(tmp_path)[0].model.stream_scores is False
    other = build_experiment(config(model__stream_scores=True), 2)
    with pytest.raises(ValueError, match=r"model\.stream_scores: False there, True here"):
        check_workdir(tmp_path, run_record(other, Shards))


def test_a_workdir_of_another_run_is_refused_with_the_keys(tmp_path, capsys):
    record = run_record(build_experiment(config(), 2), Shards)
    check_workdir(tmp_path, record)  # an empty workdir takes any run
    write_record(tmp_path, record)
    other = build_experiment(config(model__snippets=2, model__sketch_seed=7), 2)
    with pytest.raises(
        ValueError, match=r"model\.sketch_seed: 0 there, 7 here; model\.snippets: 3"
    ):
        check_workdir(tmp_path, run_record(other, Shards))
    warped = build_experiment(config(model__motion="warped"), 2)
    with pytest.raises(ValueError, match=r"\(model\.motion: 'flow' there, 'warped' here\)"):
        check_workdir(tmp_path, run_record(warped, Shards))
    split = run_record(
        build_experiment(config(data={"dir": "shards", "split": "split2"}), 2), Shards
    )
    with pytest.raises(ValueError, match=r"data\.split: 'split1' there, 'split2' here"):
        check_workdir(tmp_path, split)
    check_workdir(tmp_path, split, free=("data.split",))
    with pytest.raises(ValueError, match=r"\(seed: 0 there, 1 here\)"):
        check_workdir(tmp_path, run_record(build_experiment(config(seed=1), 2), Shards))

    class Others(Shards):
        digest = "xyz"

    with pytest.raises(ValueError, match=r"dataset\.digest: 'abc' there, 'xyz' here"):
        check_workdir(tmp_path, run_record(build_experiment(config(), 2), Others))
    # Parameters are the same however the backbones are computed: that may change.
    for change in ({"model__dtype": "bfloat16"}, {"model__remat": True}):
        check_workdir(tmp_path, run_record(build_experiment(config(**change), 2), Shards))
        assert "changed since the last start: model." in capsys.readouterr().err
    # More steps are the same run, and are named.
    check_workdir(tmp_path, run_record(build_experiment(config(training__steps=9), 2), Shards))
    assert "training.steps: 2 there, 9 here" in capsys.readouterr().err
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json: damaged .*take another --workdir"):
        check_workdir(tmp_path, record)


def test_every_key_has_a_default_or_must_be_set():
    values = default_config()
    with pytest.raises(ValueError, match=r"data\.dir: missing"):
        build_experiment(values.to_dict(), 2)
    values.data.dir = "shards"
    values.optimizer.learning_rate = 0.1
    values.training.update(steps=1, batch_size=1)
    experiment = build_experiment(values.to_dict(), 2)
    assert experiment.model.sketch_dims == (1024, 2048, 4096)
    assert nearest_key("snipets") == "model.snippets"
    assert nearest_key("learning_rat") == "optimizer.learning_rate"


def test_arguments_of_configs():
    assert parse_argument("split=2", model="D", split="1") == {"model": "D", "split": "2"}
    assert parse_argument("", model="D") == {"model": "D"}
    for wrong in ("A", "modle=A"):
        with pytest.raises(ValueError, match=f"config argument '{wrong}': write key=value"):
            parse_argument(wrong, model="D")
