"""
The allow-list of what a workflow may do to a Stable Diffusion UNet from the inside. The keys here
are the only ones such a net consults; all others it ignores, and so do we. They are looked at before
a run and at each forward, because some nodes add theirs only then.
"""

import logging

from .compat import name_of, row_of
from .errors import Unsupported

# transformer_options["patches"][name]: lists of functions.
PATCHES = (
    "emb_patch", "input_block_patch", "input_block_patch_after_skip", "output_block_patch",
    "forward_timestep_embed_patch", "middle_patch", "attn1_patch", "attn1_output_patch",
    "attn2_patch", "attn2_output_patch",
)  # fmt: skip
# transformer_options["patches_replace"][name]: functions by place.
REPLACEMENTS = ("attn1", "attn2")
# Arguments of video UNets that change a result; a SD UNet never gets them.
ARGUMENTS = ("num_video_frames", "image_only_indicator", "time_context")

_warned = set()


def check_options(options, arguments=()):
    """Raises Unsupported naming the function; warns once of what is left out."""
    patches = options.get("patches", {})
    for kind in PATCHES:
        for function in patches.get(kind, ()):
            _judge(function)
    replace = options.get("patches_replace", {})
    for kind in REPLACEMENTS:
        for function in replace.get(kind, {}).values():
            _judge(function)
    attention = options.get("optimized_attention_override")
    if attention is not None:
        _judge(attention)
    for name in ARGUMENTS:
        if arguments and arguments.get(name) is not None:
            raise Unsupported(f"The argument {name} of a video model")


def _judge(function):
    row = row_of(function)
    if row is None or row["verdict"] != "ignored":
        raise Unsupported(f"{name_of(function)} acts inside the UNet, which runs in the daemon")
    node = row["nodes"][0]
    if node not in _warned:
        _warned.add(node)
        logging.warning("[DaemonModel] %s is ignored: %s.", node, row["note"])
