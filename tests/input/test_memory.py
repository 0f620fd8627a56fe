"""Memory is taken again, and never while anybody may still look at it."""

import gc

import jax
import numpy as np
import pytest

from stpyramid_jax.input.memory import Memory


def address(array):
    return array.__array_interface__["data"][0]


def test_memory_that_nobody_holds_is_taken_again():
    memory = Memory((3, 5))
    first = memory.take()
    assert first.shape == (3, 5)
    assert first.dtype == np.uint8
    place = address(first)
    second = memory.take()
    assert not np.shares_memory(first, second)
    del first
    assert address(memory.take()) == place
    assert len({address(memory.take()) for _ in range(10)}) == 1


def test_memory_goes_back_when_a_crowd_has_left():
    memory = Memory((7,))
    crowd = [memory.take() for _ in range(20)]
    crowd.clear()
    memory.take()
    assert len(memory._blocks) <= 3


@pytest.mark.parametrize(
    "hold",
    [
        lambda array: array,
        lambda array: array[1],
        lambda array: array[1:][0, ::2],
        lambda array: array.reshape(-1).T,
        lambda array: array.view(np.int8)[:1],
        memoryview,
        lambda array: np.frombuffer(array, np.uint8),
        lambda array: {"rgb": [array]},
    ],
)
def test_whatever_holds_it_keeps_it(hold):
    memory = Memory((4, 6))
    array = memory.take()
    place, held = address(array), hold(array)
    del array
    gc.collect()
    assert address(memory.take()) != place
    del held
    assert place in {address(array) for array in [memory.take(), memory.take()]}


@pytest.mark.parametrize("shift", range(0, 64, 16))
def test_what_jax_was_given_stays(shift):
    """On CPU it shares memory that is aligned to 64 bytes, and copies other memory some time."""
    memory = Memory((1 << 20,))
    given = []
    for number in range(8):
        array = memory.take()
        array[:] = number
        offset = (-address(array)) % 64 + shift
        given.append(jax.device_put(array[offset:]))
        del array
    for number, array in enumerate(given):
        assert int(array.min()) == int(array.max()) == number
