"""What a checkpoint tells beside its arrays."""

from stpyramid_jax.input.tfrecord import Video
from stpyramid_jax.training.history import History, Seen, trained_on

SEEN = (Seen("ucf101", "ab", "split1", ("a", "b")), Seen("own", "cd", "split2", ("é", "b")))


def test_it_goes_through_json():
    import json

    history = History(640, ((80, 0.25), (160, 0.5)), SEEN)
    assert History.from_json(json.loads(json.dumps(history.to_json()))) == history


def test_samples_and_validations_add_up():
    history = History().after(32).after(32).after(0, (2, 0.5))
    assert history.samples == 64
    assert history.validations == ((2, 0.5),)


def test_the_best_is_the_latest_of_equals_and_equals_are_stale():
    assert History().best_step is None
    assert History().stale == 0
    history = History(validations=((1, 0.2), (2, 0.7), (3, 0.7), (4, 0.1)))
    assert history.best_step == 3
    assert history.stale == 2
    assert history.after(0, (5, 0.71)).stale == 0


def test_clips_of_any_run_before_are_known():
    videos = [Video(name, 0, "", 2, 1, 0, {}) for name in ("a", "c", "é")]
    assert trained_on(History(seen=SEEN), videos, [0, 1, 2]) == ["a", "é"]
    assert trained_on(History(seen=SEEN), videos, [1]) == []
