"""
The allow-list of what a workflow may do to a Stable Diffusion UNet from the inside, and what of it
the daemon does itself. The keys here are the only ones such a net consults; all others it ignores,
and so do we. They are looked at before a run and at each forward, because some nodes add theirs
only then.
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


def features_of(options, model_channels, arguments=None):
    """The `features` of a request, read from the functions that stock nodes have put there. Raises
    Unsupported naming a function of any other node; warns once of what is left out."""
    features, blocks = {}, []
    patches = options.get("patches", {})
    for kind in PATCHES:
        for function in patches.get(kind, ()):
            if isinstance(function, tuple):
                # forward_timestep_embed_patch: the class of a module, and how it is called.
                function = function[-1]
            if kind == "output_block_patch" and _is_of(function, "FreeU") and not features:
                features["freeu"] = _freeu(function, model_channels)
            else:
                _judge(function)
    replace = options.get("patches_replace", {})
    for kind in REPLACEMENTS:
        for place, function in replace.get(kind, {}).items():
            if kind == "attn1" and _is_of(function, "PerturbedAttentionGuidance"):
                blocks.append(".".join(map(str, place)))
            else:
                _judge(function)
    if blocks:
        features["pag"] = {"blocks": blocks}
    attention = options.get("optimized_attention_override")
    if attention is not None:
        _judge(attention)
    for name in ARGUMENTS:
        if arguments and arguments.get(name) is not None:
            raise Unsupported(f"The argument {name} of a video model")
    return features


def _is_of(function, node):
    row = row_of(function)
    return row is not None and node in row["nodes"]


def _freeu(function, model_channels):
    """The node's numbers, from its closure: b and s by the channels of the blocks they act on."""
    values = dict(zip(function.__code__.co_freevars, function.__closure__ or ()))
    scales = values["scale_dict"].cell_contents
    b1, s1 = scales[model_channels * 4]
    b2, s2 = scales[model_channels * 2]
    version = 2 if function.__qualname__.startswith("FreeU_V2") else 1
    return {"version": version, "b1": b1, "b2": b2, "s1": s1, "s2": s2}


def _judge(function):
    row = row_of(function)
    if row is None or row["verdict"] != "ignored":
        raise Unsupported(f"{name_of(function)} acts inside the UNet, which runs in the daemon")
    node = row["nodes"][0]
    if node not in _warned:
        _warned.add(node)
        logging.warning("[DaemonModel] %s is ignored: %s.", node, row["note"])
