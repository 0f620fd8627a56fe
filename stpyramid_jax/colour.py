"""Flow and attention as colours."""

import cv2
import numpy as np
from jaxtyping import Float, UInt8

# Corners of the Middlebury wheel of 55 hues (Baker et al., "A Database and Evaluation Methodology
# for Optical Flow", IJCV 2011): from red over yellow, green, cyan, blue and magenta to red. Hues
# that are told apart better have more room.
_PLACES = (0, 15, 21, 25, 36, 49, 55)
_CORNERS = np.array(
    [(1, 0, 0), (1, 1, 0), (0, 1, 0), (0, 1, 1), (0, 0, 1), (1, 0, 1), (1, 0, 0)], np.float32
)
_OPACITY = 0.7  # of attention at its largest


def flow_colour(flow: Float[np.ndarray, "h w 2"], largest: float) -> UInt8[np.ndarray, "h w 3"]:
    """Direction as hue, length as saturation on white; RGB.

    Right is red and the hue goes on clockwise: yellow down, azure left, violet up. What is longer
    than `largest` is darker, with full saturation.

    Args:
      flow: displacements (x to the right, y down) in pixels.
      largest: the length that has full saturation, in pixels; more than 0.
    """
    x, y = np.moveaxis(np.asarray(flow, np.float32), -1, 0)
    place = np.arctan2(y, x) % (2 * np.pi) * (_PLACES[-1] / (2 * np.pi))
    hue = np.stack([np.interp(place, _PLACES, channel) for channel in _CORNERS.T], axis=-1)
    length = (np.hypot(x, y) / np.float32(largest))[..., None]
    colour = np.where(length <= 1, 1 - length * (1 - hue), 0.75 * hue)
    return np.rint(255 * colour).astype(np.uint8)


def heat(
    frame: UInt8[np.ndarray, "H W 3"], attention: Float[np.ndarray, "h w"]
) -> UInt8[np.ndarray, "H W 3"]:
    """Attention laid over the frame that it looks at: the more, the brighter and less transparent.

    It is relative to its largest weight, and interpolated between the centres of its cells.

    Args:
      frame: RGB.
      attention: weights of at least 0, over the whole of `frame`.
    """
    share = np.asarray(attention, np.float32)
    share = share / max(float(share.max()), np.finfo(np.float32).tiny)
    share = cv2.resize(share, frame.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    warm = cv2.applyColorMap(np.rint(255 * share).astype(np.uint8), cv2.COLORMAP_INFERNO)
    opacity = _OPACITY * share[..., None]
    blended = (1 - opacity) * frame + opacity * warm[..., ::-1]
    return np.rint(blended).astype(np.uint8)
