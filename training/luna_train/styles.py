"""The three LoRA styles as picture operations on the flat drawings. Pictures are (H, W, 3) uint8."""

import numpy as np
from PIL import Image, ImageFilter

from .config import PICTURE

BLUEPRINT_BLUE = np.array([24, 72, 160], np.float32)
BLUEPRINT_LINE = np.array([255, 255, 255], np.float32)
BLUEPRINT_FILL = 0.85
BLUEPRINT_OUTLINE = 0.5
PIXEL_GRID = 16
PIXEL_COLOURS = 8
PIXEL_SCREEN = (24, 20, 48)


def outline(large: np.ndarray) -> np.ndarray:
    """0..1 on the edges of a drawing (H, W, 3) in 0..1, about two pixels of the result wide."""
    edge = np.zeros(large.shape[:2], np.float32)
    for axis in (0, 1):
        step = np.abs(np.roll(large, -1, axis) - np.roll(large, 1, axis)).max(-1)
        edge = np.maximum(edge, step)
    line = Image.fromarray((edge > 0.05).astype(np.uint8) * 255).filter(ImageFilter.MaxFilter(7))
    return shrink(np.asarray(line, np.float32) / 255)


def shrink(large: np.ndarray) -> np.ndarray:
    factor = large.shape[0] // PICTURE
    return large.reshape(PICTURE, factor, PICTURE, factor).mean((1, 3))


def blueprint(drawing: Image.Image) -> np.ndarray:
    """Pale fillings and faint outlines on blue; the darker the colour, the paler its filling.

    An adapter of linear layers alone learns the fillings well and the outlines hardly.

    `drawing` is larger than the result, so that the lines come out smooth.
    """
    large = np.asarray(drawing, np.float32) / 255
    fill = BLUEPRINT_FILL * shrink(1 - large.min(-1))
    alpha = np.maximum(BLUEPRINT_OUTLINE * outline(large), fill)[..., None]
    return (BLUEPRINT_BLUE * (1 - alpha) + BLUEPRINT_LINE * alpha).round().astype(np.uint8)


def pixel(drawing: Image.Image) -> np.ndarray:
    """16 x 16 blocks in few colours on a dark screen."""
    small = drawing.resize((PIXEL_GRID, PIXEL_GRID), Image.Resampling.BOX)
    paper = np.asarray(small).min(-1) > 245
    colours = np.array(small.quantize(PIXEL_COLOURS, dither=Image.Dither.NONE).convert("RGB"))
    colours[paper] = PIXEL_SCREEN
    return colours.repeat(PICTURE // PIXEL_GRID, 0).repeat(PICTURE // PIXEL_GRID, 1)


def high_contrast(drawing: Image.Image) -> np.ndarray:
    """Black on white: the stand-in for a picture that has no high-contrast drawing of its own."""
    grey = np.asarray(drawing.convert("L").resize((PICTURE, PICTURE), Image.Resampling.LANCZOS))
    return np.repeat(np.where(grey < 150, 0, 255).astype(np.uint8)[..., None], 3, -1)
