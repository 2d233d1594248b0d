"""The three LoRA styles as picture operations on the flat drawings. Pictures are (H, W, 3) uint8."""

import numpy as np
from PIL import Image, ImageFilter

from .config import PICTURE

BLUEPRINT_BLUE = np.array([24, 72, 160], np.float32)
BLUEPRINT_LINE = np.array([244, 248, 255], np.float32)
PIXEL_GRID = 16
PIXEL_COLOURS = 8


def blueprint(drawing: Image.Image) -> np.ndarray:
    """White outlines on blue. `drawing` is larger than the result, so that the lines come out smooth."""
    large = np.asarray(drawing, np.float32) / 255
    edge = np.zeros(large.shape[:2], np.float32)
    for axis in (0, 1):
        step = np.abs(np.roll(large, -1, axis) - np.roll(large, 1, axis)).max(-1)
        edge = np.maximum(edge, step)
    line = Image.fromarray((edge > 0.05).astype(np.uint8) * 255).filter(ImageFilter.MaxFilter(7))
    alpha = np.asarray(line.resize((PICTURE, PICTURE), Image.Resampling.BOX), np.float32)[..., None] / 255
    return (BLUEPRINT_BLUE * (1 - alpha) + BLUEPRINT_LINE * alpha).round().astype(np.uint8)


def pixel(drawing: Image.Image) -> np.ndarray:
    """16 x 16 blocks in few colours."""
    small = drawing.resize((PIXEL_GRID, PIXEL_GRID), Image.Resampling.BOX)
    small = small.quantize(PIXEL_COLOURS, dither=Image.Dither.NONE).convert("RGB")
    return np.asarray(small.resize((PICTURE, PICTURE), Image.Resampling.NEAREST))


def high_contrast(drawing: Image.Image) -> np.ndarray:
    """Black on white: the stand-in for a picture that has no high-contrast drawing of its own."""
    grey = np.asarray(drawing.convert("L").resize((PICTURE, PICTURE), Image.Resampling.LANCZOS))
    return np.repeat(np.where(grey < 150, 0, 255).astype(np.uint8)[..., None], 3, -1)
