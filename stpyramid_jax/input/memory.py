"""Memory of batches, taken again when nobody looks at the last one any more.

Pages that come fresh from the kernel are cleared first, and a virtual machine may have to find them
before: at 3 MB a sample that was seen to take as long as decoding it.
"""

import weakref

import numpy as np
from jaxtyping import UInt8


class Memory:
    """Arrays of bytes of one shape, again and again. One thread at a time may take."""

    def __init__(self, shape: tuple[int, ...]):
        self._shape = shape
        self._blocks: list[tuple[memoryview, weakref.ref]] = []

    def take(self) -> UInt8[np.ndarray, "..."]:
        """An array that nobody else looks at, with whatever was there.

        Its memory is free again when it is gone, and with it all that hold it: its views, and JAX
        as long as it copies from it or shares its memory.
        """
        free = [k for k, (_, last) in enumerate(self._blocks) if last() is None]
        block = self._blocks[free[0]][0] if free else np.empty(self._shape, np.uint8).data
        gone = {*free[:1], *free[3:]}  # the one taken, and all other free ones but two
        self._blocks = [entry for k, entry in enumerate(self._blocks) if k not in gone]
        # A view of a NumPy array refers to the array at the bottom. With a memoryview in between
        # this one is the bottom.
        array = np.asarray(block)
        self._blocks.append((block, weakref.ref(array)))
        return array
