"""Optical flow less the motion of the camera: the "warped flow" of TSN.

Between two frames the background moves by a homography H as far as it is flat, far away, or the
camera only turns. Wang and Schmid (ICCV 2013) and TSN (Wang et al., ECCV 2016) estimate H, warp the
second frame by it and compute the flow again. With first(x) = second(x + f(x)) that flow is known
already: first(x) = second(H(x + w)) where w = H^-1 (x + f) - x.

They take H from matches of SURF features and from corners that the flow follows; Wang and Schmid
leave out what a detector takes for people. Here it comes from the flow alone, without a detector:
each cell of the image has one vote, so that area counts and not texture, and votes count for the
camera only if they surround half of the image. Whoever does that, close to the camera, is taken
for the background. Letters and bars laid over the video, and walls too plain for the flow to
follow, come out as moving against the camera.
"""

import cv2
import numpy as np
from jaxtyping import Float, UInt8

CELL = 8  # pixels
TEXTURE = 0.5  # grey levels per pixel, in every direction, that a cell needs for its vote
# Pixels between where the flow and where H take a point of the background. The closest that finds
# H is taken, which tells slow actors apart. The widest is Wang and Schmid's: the votes of a fast
# camera differ by blur and depth.
TOLERANCES = (0.25, 0.5, 1.0)
VOTES = 25  # that H needs, as in the programs of Wang and Schmid and of TSN
SHARE = 0.25  # of all votes, that H needs
SPREAD = 0.5  # part of the image that they surround
REACH = 0.25  # of the shorter side: how far H may move a corner of the image


def without_camera(
    first: UInt8[np.ndarray, "h w"], flow: Float[np.ndarray, "h w 2"]
) -> Float[np.ndarray, "h w 2"]:
    """The flow from grey `first` to the next frame as a camera at rest would have seen it."""
    return stabilise(flow, camera_motion(first, flow))


def stabilise(
    flow: Float[np.ndarray, "h w 2"], motion: Float[np.ndarray, "3 3"]
) -> Float[np.ndarray, "h w 2"]:
    """H^-1 (x + f(x)) - x in float32, where H is `motion`; f itself where H is the identity."""
    height, width = flow.shape[:2]
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    target = np.dstack([x, y]) + flow
    return flow + (cv2.perspectiveTransform(target, np.linalg.inv(motion)) - target)


def camera_motion(
    first: UInt8[np.ndarray, "h w"], flow: Float[np.ndarray, "h w 2"]
) -> Float[np.ndarray, "3 3"]:
    """Homography H from pixels (x, y) of the background in `first` to the next frame.

    The identity where no motion has votes enough. Runs on one machine repeat exactly, on any number
    of threads.

    Raises:
      ValueError: the image is not grey bytes, or the flow not of its size.
    """
    if first.ndim != 2 or first.dtype != np.uint8 or flow.shape != (*first.shape, 2):
        raise ValueError(
            "camera_motion: first must be uint8 [h, w] and flow [h, w, 2], got "
            f"{first.dtype} {first.shape} and {flow.shape}"
        )
    points = _voters(first)
    targets = (points + flow[points[:, 1], points[:, 0]]).astype(np.float32)
    known = np.isfinite(targets).all(axis=1)
    points, targets = points[known].astype(np.float32), targets[known]
    for tolerance in TOLERANCES:
        motion = _background(points, targets, tolerance, first.shape)
        if motion is not None:
            return motion
    return np.eye(3)


def camera_parameters() -> dict:
    """Everything but frames and flow that shapes the flow without the camera's motion."""
    return {
        "cell": CELL,
        "texture": TEXTURE,
        "tolerances": list(TOLERANCES),
        "votes": VOTES,
        "share": SHARE,
        "spread": SPREAD,
        "reach": REACH,
    }


def _voters(image: UInt8[np.ndarray, "h w"]) -> np.ndarray:
    """Pixels (x, y), int [n, 2]: of each cell the one with the most texture, if it has enough."""
    # The smaller eigenvalue of the mean of g g^T over 5x5 pixels, of g twice the gradient over 255.
    texture = cv2.cornerMinEigenVal(image, 5)
    rows, columns = image.shape[0] // CELL, image.shape[1] // CELL
    cells = texture[: rows * CELL, : columns * CELL].reshape(rows, CELL, columns, CELL)
    cells = cells.swapaxes(1, 2).reshape(rows, columns, CELL * CELL)
    row, column = np.nonzero(cells.max(axis=2, initial=0) >= (2 * TEXTURE / 255) ** 2)
    y, x = np.divmod(cells[row, column].argmax(axis=1), CELL)
    return np.stack([column * CELL + x, row * CELL + y], axis=1)


def _background(
    points: np.ndarray, targets: np.ndarray, tolerance: float, shape: tuple[int, ...]
) -> np.ndarray | None:
    """The homography of most points that surround the image, if they are enough."""
    needed = max(VOTES, SHARE * len(points))
    while len(points) >= needed:
        motion, votes = _consensus(points, targets, tolerance)
        if votes.sum() < needed:
            break
        surrounded = cv2.contourArea(cv2.convexHull(points[votes]))
        if surrounded >= SPREAD * shape[0] * shape[1] and _plausible(motion, shape):
            return motion
        points, targets = points[~votes], targets[~votes]  # an object: ask the others
    return None


def _consensus(
    points: np.ndarray, targets: np.ndarray, tolerance: float
) -> tuple[np.ndarray, np.ndarray]:
    """The homography that most points agree on, float64 [3, 3], and which do, bool [n]."""
    settings = cv2.UsacParams()
    settings.threshold = tolerance
    settings.randomGeneratorState = 0
    settings.isParallel = False
    motion, votes = cv2.findHomography(points, targets, settings)
    if motion is None:
        return np.eye(3), np.zeros(len(points), bool)
    return motion, votes.ravel().astype(bool)


def _plausible(motion: np.ndarray, shape: tuple[int, ...]) -> bool:
    """Whether corners of the image stay near, and so in order, with no horizon between them."""
    height, width = shape
    corners = np.array([[[0, 0], [width, 0], [0, height], [width, height]]], float)
    moves = cv2.perspectiveTransform(corners, motion) - corners
    return bool(np.all(np.linalg.norm(moves, axis=-1) <= REACH * min(shape)))
