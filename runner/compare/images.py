# SPDX-License-Identifier: Apache-2.0
"""Comparison of figures by a perceptual hash: the sign of brightness steps on a coarse grid, per colour channel."""

from __future__ import annotations

import io

import numpy as np

from runner.compare.verdict import EXTRA_HINT, Outcome, Tolerance, Verdict, verdict

_GRID = 32
"""Grid points in each direction."""
_STEP = 2.0
"""Of 255; smaller steps are noise."""
_MOST_PIXELS = 50_000_000
_SHOWN = (480, 480)
_ASPECT = 0.02


def compare_images(part: str, old: bytes, new: bytes, tolerance: Tolerance) -> Verdict:
    """Compare two encoded images; if they differ, the verdict includes thumbnails of both."""
    if old == new:
        return verdict(part, Outcome.EQUAL)
    try:
        one, two = _pixels(old), _pixels(new)
    except ModuleNotFoundError:
        return verdict(part, Outcome.UNKNOWN, f"Pillow is not installed: {EXTRA_HINT}")
    except Exception as error:  # noqa: BLE001  (decoders raise anything on a damaged image)
        return verdict(part, Outcome.UNKNOWN, f"cannot be read: {error}")
    if one.shape == two.shape and np.array_equal(one, two):
        return verdict(part, Outcome.EQUAL, "identical pixels")
    distance = hash_distance(perceptual_hash(one), perceptual_hash(two))
    sizes = [f"{pixels.shape[1]} x {pixels.shape[0]}" for pixels in (one, two)]
    detail = f"perceptual hashes differ by {distance:.1%}"
    detail += f", {sizes[0]} → {sizes[1]}" if sizes[0] != sizes[1] else ""
    same_form = abs(one.shape[0] / one.shape[1] / (two.shape[0] / two.shape[1]) - 1) <= _ASPECT
    scores = {"figure": distance}
    if same_form and distance <= tolerance.figure:
        return verdict(part, Outcome.TOLERATED, detail, scores=scores)
    return verdict(part, Outcome.DIFFERENT, detail, scores=scores, figures=(_thumbnail(one), _thumbnail(two)))


def perceptual_hash(pixels: np.ndarray) -> np.ndarray:
    """Return the brightness steps between grid points of an image: up, down or none, per direction and channel."""
    from PIL import Image

    image = Image.fromarray(pixels).resize((_GRID + 1, _GRID + 1), Image.Resampling.BOX)
    grid = np.asarray(image, dtype=np.float32)
    across, down = np.diff(grid, axis=1)[:-1], np.diff(grid, axis=0)[:, :-1]
    return np.concatenate([(steps > _STEP).ravel() for steps in (across, -across, down, -down)])


def hash_distance(old: np.ndarray, new: np.ndarray) -> float:
    """Return the fraction of steps that only one of two images has; uniform background does not count."""
    either = int((old | new).sum())
    return float((old ^ new).sum() / either) if either else 0.0


def _pixels(content: bytes) -> np.ndarray:
    """Return the RGB pixels of an image on a white background."""
    from PIL import Image

    with Image.open(io.BytesIO(content)) as image:
        if image.width * image.height > _MOST_PIXELS:
            raise ValueError(f"{image.width} x {image.height} pixels, the limit is {_MOST_PIXELS:,}")
        coloured = image.convert("RGBA")
    white = Image.new("RGBA", coloured.size, "white")
    return np.asarray(Image.alpha_composite(white, coloured).convert("RGB"))


def _thumbnail(pixels: np.ndarray) -> bytes:
    from PIL import Image

    image = Image.fromarray(pixels)
    image.thumbnail(_SHOWN)
    buffer = io.BytesIO()
    image.quantize(128, Image.Quantize.FASTOCTREE).save(buffer, "PNG")
    return buffer.getvalue()
