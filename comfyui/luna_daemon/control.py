"""
Where ComfyUI's control residuals are added, in the daemon's words. ComfyUI consumes its lists from
the end: the last of `output` belongs to the last skip, the last of `input` to the first block.
"""

import logging

import torch


def control_tensors(control, shapes, rows):
    """`control.input.N`, `control.middle.0`, `control.output.N` of a forward. `shapes` are what
    `skip_shapes` gives. A residual that does not fit is left out with a warning, as ComfyUI does."""
    if control is None:
        return {}
    skips, middle = shapes
    found = {}
    for number, shape in enumerate(skips):
        found[f"control.input.{number}"] = (_from_end(control, "input", number), shape)
        place = len(skips) - 1 - number
        found[f"control.output.{number}"] = (_from_end(control, "output", place), shape)
    found["control.middle.0"] = (_from_end(control, "middle", 0), middle)
    fitted = {name: _fit(name, each, (rows, *shape)) for name, (each, shape) in found.items()}
    return {name: each for name, each in fitted.items() if each is not None}


def _from_end(control, kind, place):
    entries = control.get(kind) or []
    return entries[-1 - place] if place < len(entries) else None


def _fit(name, tensor, wanted):
    if tensor is None:
        return None
    rows = tensor.shape[0] if tensor.ndim == 4 else 1
    try:
        return tensor.expand(rows if rows in (1, wanted[0]) else wanted[0], *wanted[1:])
    except RuntimeError:
        logging.warning(
            "warning control could not be applied %s %s", tuple(wanted), tuple(tensor.shape)
        )
        return None


def skip_shapes(net, height, width):
    """[(channels, h, w)] after each of the UNet's input blocks, and after its middle block."""
    shapes = []
    for block in net.input_blocks:
        # A residual block, a down-sampling or the first convolution.
        first = block[0]
        if type(first).__name__ == "Downsample":
            height, width = (height + 1) // 2, (width + 1) // 2
        shapes.append((first.out_channels, height, width))
    return shapes, shapes[-1]


def rows_of(tensors, begin, end, rows):
    """The rows of a batch that is sent in parts; what has one row for all stays as it is."""
    return {
        name: each if each.shape[0] == 1 and rows > 1 else each[begin:end]
        for name, each in tensors.items()
    }


def joined(parts):
    return parts[0] if len(parts) == 1 else torch.cat(parts)
