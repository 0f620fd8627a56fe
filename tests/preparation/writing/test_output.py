import csv
import io
import json

import numpy as np
import pytest

from stpyramid_jax.preparation.annotations import ListedVideo
from stpyramid_jax.preparation.writing import output, shards


def append(shard, name, frames):
    for number in range(frames):
        shard.files["rgb"].append(image=f"{name}{number}".encode() * 9, frame=number)
        shard.files["flow"].append(image=b"flow", frame=number)


def video(name):
    return ListedVideo(name, f"A/{name}.avi", "A", 0, name, ("train",))


PLAN = {
    "format": 2,
    "name": "set",
    "classes": ["A"],
    "families": ["rgb", "flow"],
    "splits": ["split1"],
    "parameters": {"size": [64, 48], "flow": {"method": "dis"}},
}


def test_another_plan_is_refused_with_all_the_keys_that_differ(tmp_path):
    assert output.begin(tmp_path, PLAN) is False
    assert output.begin(tmp_path, PLAN) is False
    other = {
        **PLAN,
        "classes": ["A", "B"],
        "parameters": {"size": [64, 48], "flow": {"method": "tvl1"}},
    }
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - its lines are compared below
        output.begin(tmp_path, other)
    assert [line.removeprefix(f"{tmp_path}: ") for line in str(caught.value).splitlines()] == [
        "prepared with classes = ['A'], now ['A', 'B']; choose another --out",
        "prepared with parameters.flow.method = 'dis', now 'tvl1'; choose another --out",
    ]


def test_other_libraries_are_refused_until_the_folder_is_complete(tmp_path):
    def plan(version, size=64):
        flow = {"method": "tvl1", "platform": version, "jax": version}
        parameters = {"size": size, "libraries": {"av": version}, "flow": flow}
        return PLAN | {"parameters": parameters}

    assert output.begin(tmp_path, plan("1")) is False
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - its lines are compared below
        output.begin(tmp_path, plan("2"))
    keys = [line.split(" = ")[0].split()[-1] for line in str(caught.value).splitlines()]
    assert keys == [f"parameters.{k}" for k in ("flow.jax", "flow.platform", "libraries.av")]
    with shards.ShardWriter(tmp_path, "set", 0, 1, ("rgb", "flow")) as shard:
        append(shard, "a", 2)
        shard.keep(video("a"))
    output.finalise(tmp_path, plan("1"), [video("a")])
    assert output.begin(tmp_path, plan("2")) is True
    with pytest.raises(ValueError, match=r"prepared with parameters\.size = 64, now 65"):
        output.begin(tmp_path, plan("2", size=65))


@pytest.mark.parametrize("name", ["dataset.json", ".plan.json"])
@pytest.mark.parametrize("text", ["", '{"format": 1, "na', "[]"])
def test_a_damaged_description_is_named(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match="not what a preparation writes") as caught:
        output.begin(tmp_path, PLAN)
    assert str(caught.value).startswith(f"{tmp_path / name}: ")
    assert str(caught.value).endswith("; remove the folder or choose another --out")


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").touch()
    (tmp_path / ".download.part").touch()
    with pytest.raises(
        ValueError, match=r"not empty and not a preparation: holds \.download\.part"
    ):
        output.begin(tmp_path, PLAN)
    assert {path.name for path in tmp_path.iterdir()} == {"thesis.tex", ".download.part"}


def test_a_second_preparation_is_kept_out(tmp_path):
    with (
        output.locked(tmp_path),
        pytest.raises(ValueError, match="another preparation is writing here"),
        output.locked(tmp_path),
    ):
        pass
    with output.locked(tmp_path):  # free again, and no trace of it afterwards
        pass
    assert list(tmp_path.iterdir()) == []


def test_finalise_joins_shards_and_marks_the_folder_complete(tmp_path):
    videos = [video(name) for name in "abc"]
    output.begin(tmp_path, PLAN)
    for number, share in enumerate(shards.shard_shares(3)):
        with shards.ShardWriter(tmp_path, "set", number, 3, ("rgb", "flow")) as shard:
            for one in videos[share]:
                append(shard, one.name, 2 + number)
                shard.leave_out(one, "bad") if one.name == "b" else shard.keep(one)
    dataset = output.finalise(tmp_path, PLAN, videos)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "videos.csv").read_text())))
    assert [(r["name"], r["frames"], r["fields"], r["shard"]) for r in rows] == [
        ("a", "2", "1", "0"),
        ("c", "4", "3", "2"),
    ]
    assert (tmp_path / "errors.csv").read_text() == "name,path,reason\nb,A/b.avi,bad\n"
    with np.load(tmp_path / "index.npz") as index:
        assert index["rgb_offsets"].dtype == np.int64
        assert len(index["rgb_offsets"]) == 3 + 5
    assert dataset == json.loads((tmp_path / "dataset.json").read_text())
    assert dataset["files"].keys() | {"dataset.json"} == {p.name for p in tmp_path.iterdir()}
    assert output.begin(tmp_path, PLAN) is True

    (tmp_path / "index.npz").write_bytes(b"short")
    with pytest.raises(ValueError, match=r"index\.npz is damaged, 5 of \d+ bytes"):
        output.begin(tmp_path, PLAN)
