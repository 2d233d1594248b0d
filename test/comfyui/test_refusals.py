"""What the daemon does not do, by the node's name: force_daemon says so before a picture is made, and
auto computes it here, bit for bit as ComfyUI alone does. What packs call is called here in the
test's own words; the packs themselves are in test_packs.py. A fake daemon answers."""

import functools
import glob
import os
import unittest

if not os.environ.get("COMFYUI_PATH"):
    raise unittest.SkipTest("COMFYUI_PATH is not set")

import comfy_process as p  # noqa: E402
import comfy.ldm.modules.attention  # noqa: E402
import comfy.sd  # noqa: E402
import folder_paths  # noqa: E402
import nodes  # noqa: E402
import torch  # noqa: E402
from comfy.patcher_extension import PatcherInjection, WrappersMP  # noqa: E402
from comfy_extras import nodes_model_merging as merging  # noqa: E402
from comfy_extras.nodes_hypernetwork import HypernetworkLoader  # noqa: E402
from comfy_extras.nodes_lora_extract import LoraSave  # noqa: E402
from comfy_extras.nodes_model_downscale import PatchModelAddDownscale  # noqa: E402
from comfy_extras.nodes_nag import NAGuidance  # noqa: E402
from comfy_extras.nodes_sag import SelfAttentionGuidance  # noqa: E402
from luna_daemon.errors import Unsupported  # noqa: E402
from luna_daemon.loaders import clip_from_checkpoint, vae_from_checkpoint  # noqa: E402
from luna_daemon.remote_net import Served  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

ADVICE = "use force_local for this branch"
# Wide enough for the blur of SelfAttentionGuidance and for two halvings.
SIDE = 16
BLOCK = "input_blocks.1"


def conds():
    """Of random numbers: on zeros an attention's keys and values would all be equal."""
    made = [torch.randn(1, 77, 768, generator=torch.Generator().manual_seed(n)) for n in (1, 2)]
    return [[[each, {}]] for each in made]


def picture(model, positive=None, negative=None):
    """`positive` makes another conditioning of the usual one."""
    one, other = conds()
    one = positive(one) if positive else one
    return p.sample(model, 3, one, other, side=SIDE)


def whole_model():
    return comfy.sd.load_checkpoint_guess_config(p.path_of("sd1"), False, False)[0]


def other_model():
    path = p.path_of("sd1").replace("checkpoints/sd1", "diffusion_models/sd1-other")
    return comfy.sd.load_diffusion_model(path)


def boxed(cond):
    gligen = nodes.GLIGENLoader().load_gligen("boxes.safetensors")[0]
    box = (torch.randn(1, 768, generator=torch.Generator().manual_seed(9)), 8, 6, 2, 1)
    return [[cond[0][0], {"gligen": ("position", gligen, [box])}]]


class IPAdapterReplace:
    """As IPAdapter's and InstantID's objects: attention to tokens of a picture beside the text's."""

    def __init__(self):
        generator = torch.Generator().manual_seed(4)
        self.tokens = torch.randn(1, 4, 320, generator=generator)

    def __call__(self, q, k, v, extra_options):
        heads = extra_options["n_heads"]
        attention = comfy.ldm.modules.attention.optimized_attention
        tokens = self.tokens.to(q).repeat(q.shape[0], 1, 1)
        return attention(q, k, v, heads) + 0.8 * attention(q, tokens, tokens, heads)


def ip_adapter(model):
    model = model.clone()
    for place in (("input", 1), ("middle", 0), ("output", 3)):
        model.set_model_attn2_replace(IPAdapterReplace(), *place)
    return model


class Motion(torch.nn.Module):
    """A module within a block of the net, where AnimateDiff puts those of time: over the batch."""

    def forward(self, x, context, transformer_options=None):
        return x * 0.5 + x.mean(dim=0, keepdim=True) * 0.4


def apply_motion(layer, x, emb, context, transformer_options, *_rest, **_more):
    return layer(x, context, transformer_options=transformer_options)


def animate_diff(model):
    """A module of its own, put in while the model is loaded; how a block is to call it; a wrapper
    around the sampling that gives the net an option no UNet knows."""
    model, motion = model.clone(), Motion()
    block = lambda patcher: patcher.get_model_object(f"diffusion_model.{BLOCK}")  # noqa: E731
    inject = PatcherInjection(
        lambda patcher: block(patcher).insert(1, motion), lambda patcher: block(patcher).pop(1)
    )
    model.set_injections("ADE", [inject])
    model.set_model_forward_timestep_embed_patch((Motion, apply_motion))

    def sampling(execute, *args, **more):
        guider = execute.class_obj
        given = guider.model_options
        guider.model_options = comfy.model_patcher.create_model_options_clone(given)
        guider.model_options["transformer_options"]["ad_params"] = {"full_length": 1}
        try:
            return execute(*args, **more)
        finally:
            guider.model_options = given

    model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, "ADE", sampling)
    return model


def replaced_part(model):
    model = model.clone()
    model.add_object_patch("diffusion_model.out", torch.nn.Conv2d(320, 4, 1))
    torch.manual_seed(5)
    torch.nn.init.normal_(model.object_patches["diffusion_model.out"].weight, std=0.05)
    torch.nn.init.zeros_(model.object_patches["diffusion_model.out"].bias)
    return model


def injected_forward(model):
    """The forward of one of the net's modules, replaced while the model is loaded."""
    model = model.clone()
    block = lambda patcher: patcher.get_model_object(f"diffusion_model.{BLOCK}.0")  # noqa: E731

    def inject(patcher):
        module = block(patcher)
        module.forward = lambda x, emb: type(module).forward(module, x, emb) * 0.7

    model.set_injections(
        "test", [PatcherInjection(inject, lambda patcher: block(patcher).__dict__.pop("forward"))]
    )
    return model


# Node: (what the error says beside the advice, what is put on the model, and on the conditioning)
ON_A_MODEL = {
    "SelfAttentionGuidance": (
        "SelfAttentionGuidance .*attn_and_record",
        lambda m: SelfAttentionGuidance.execute(m, 0.5, 2.0).args[0],
    ),
    "NAGuidance": ("NAGuidance", lambda m: NAGuidance.execute(m, 5.0, 0.5, 1.5).args[0]),
    "PatchModelAddDownscale (Deep Shrink)": (
        "PatchModelAddDownscale",
        lambda m: PatchModelAddDownscale.execute(
            m, 1, 2.0, 0.0, 0.35, True, "bicubic", "bicubic"
        ).args[0],
    ),
    "HypernetworkLoader": (
        "HypernetworkLoader .*hypernetwork_patch",
        lambda m: HypernetworkLoader.execute(m, "style.pt", 0.7).args[0],
    ),
    "GLIGENTextBoxApply": ("GLIGENTextBoxApply", lambda m: m, boxed),
    "IPAdapter's calls": ("IPAdapterReplace", ip_adapter),
    "AnimateDiff's calls": (r"Motion.* into the net at input_blocks\.1\.1", animate_diff),
    "a part of the net": ("replaces diffusion_model.out", replaced_part),
    "a forward within the net": (r"forward of input_blocks\.1\.0", injected_forward),
    "ModelMergeSimple": (
        "merge of models",
        lambda m: merging.ModelMergeSimple().merge(m, other_model(), 0.7)[0],
    ),
    "ModelMergeBlocks": (
        "merge of models",
        lambda m: merging.ModelMergeBlocks().merge(
            m, other_model(), input=0.2, middle=0.5, out=0.9
        )[0],
    ),
    "ModelMergeSubtract": (
        "merge of models",
        lambda m: merging.ModelSubtract().merge(m, other_model(), 0.3)[0],
    ),
    "ModelMergeAdd": ("merge of models", lambda m: merging.ModelAdd().merge(m, other_model())[0]),
    "ModelMergeSimple, the second of both": (
        "merge of models",
        lambda m: merging.ModelMergeSimple().merge(other_model(), m, 0.7)[0],
    ),
}


class OnAModel(unittest.TestCase):
    def test_force_daemon_names_it_before_the_first_step(self):
        for node, (text, put, *positive) in ON_A_MODEL.items():
            with self.subTest(node):
                base, daemon = p.fake_model()
                with self.assertRaisesRegex(Unsupported, f"{text}.*{ADVICE}"):
                    picture(put(base), *positive)
                # GLIGEN's functions are made anew at each step, for the prompt that has boxes.
                self.assertLessEqual(len(daemon.runs), 1 if positive else 0)

    def test_how_a_blocks_module_is_called_is_named_by_its_function(self):
        base, _ = p.fake_model()
        base.set_model_forward_timestep_embed_patch((Motion, functools.partial(apply_motion)))
        with self.assertRaisesRegex(Unsupported, f"apply_motion.*{ADVICE}"):
            picture(base)

    def test_what_a_local_copy_cannot_repeat_is_an_error_in_auto_too(self):
        base, daemon = p.fake_model("auto")
        block = base.model.diffusion_model.input_blocks[1]
        attention = block.pop(1)
        with self.assertRaisesRegex(Unsupported, rf"out of input_blocks\.1 .*repeat.*{ADVICE}"):
            picture(base)
        block.append(torch.nn.Identity())
        with self.assertRaisesRegex(Unsupported, rf"Identity into the net .*repeat.*{ADVICE}"):
            picture(base)
        block[1] = attention
        picture(base)
        self.assertEqual(len(daemon.runs), 3)
        # And when it comes in the middle of a picture.
        daemon.answer = lambda run: (
            block[0].__dict__.setdefault("forward", lambda x, emb: x),
            run.own["x"] * 0.1,
        )[1]
        with self.assertRaisesRegex(Unsupported, rf"forward of input_blocks\.1\.0 .*{ADVICE}"):
            picture(base)
        self.assertEqual(len(daemon.runs), 4)

    def test_auto_makes_comfyuis_own_picture_here(self):
        whole = whole_model()
        plain = picture(whole)
        for node, (_, put, *positive) in ON_A_MODEL.items():
            with self.subTest(node):
                wanted = picture(put(whole), *positive)
                self.assertFalse(torch.equal(wanted, plain), "the node changes nothing")
                base, daemon = p.fake_model("auto")
                with self.assertLogs(level="WARNING") as logs:
                    found = picture(put(base), *positive)
                self.assertTrue(torch.equal(found, wanted))
                self.assertIn("local", "".join(logs.output))
                # And leaves nothing behind: the same model with nothing on it.
                daemon.runs.clear()
                daemon.answer = lambda run: run.own["x"] * 0.1
                picture(base)
                self.assertEqual(len(daemon.runs), 3)


def served(mode):
    return Served(p.FakeDaemon(), p.INFO, mode)


def parts(mode=None):
    """MODEL, CLIP and VAE of one checkpoint: of the daemon in a mode, or ComfyUI's own."""
    path = p.path_of("sd1")
    if mode is None:
        return comfy.sd.load_checkpoint_guess_config(path)[:3]
    clip, vae = (make(path, served(mode)) for make in (clip_from_checkpoint, vae_from_checkpoint))
    return p.fake_model(mode)[0], clip, vae


def save(node, *given, **more):
    """What a node wrote: the names and tensors of its file."""
    place = folder_paths.get_output_directory()
    for each in glob.glob(f"{place}/saved/*"):
        os.remove(each)
    call = node.execute if hasattr(node, "execute") else node().save
    call(*given, filename_prefix="saved/x", **more)
    (path,) = glob.glob(f"{place}/saved/*")
    tensors = load_file(path)
    # Not in a file of SD1.5, and never computed with: ComfyUI saves memory nobody has written to.
    tensors.pop("text_projection.weight", None)
    return tensors


def with_lora(model):
    """Because what is saved has it in its weights."""
    return p.with_lora(model, p.small_lora(), 0.7)


SAVES = {
    "ModelSave": lambda m, c, v: save(merging.ModelSave, with_lora(m)),
    "CheckpointSave": lambda m, c, v: save(merging.CheckpointSave, with_lora(m), c, v),
    "CLIPSave": lambda m, c, v: save(merging.CLIPSave, c),
    "VAESave": lambda m, c, v: save(merging.VAESave, v),
    "LoraSave": lambda m, c, v: save(
        LoraSave, rank=4, lora_type="full_diff", bias_diff=False, model_diff=with_lora(m)
    ),
    "CLIPMergeSimple": lambda m, c, v: save(
        merging.CLIPSave, merging.CLIPMergeSimple().merge(c, c, 0.3)[0]
    ),
}


class Saves(unittest.TestCase):
    def test_force_daemon_says_so(self):
        for node, write in SAVES.items():
            with (
                self.subTest(node),
                self.assertRaisesRegex(Unsupported, f"reads .*weight.*{ADVICE}"),
            ):
                write(*parts("force_daemon"))

    def test_auto_writes_comfyuis_own_file(self):
        for node, write in SAVES.items():
            with self.subTest(node):
                wanted = write(*parts())
                with self.assertLogs(level="WARNING") as logs:
                    found = write(*parts("auto"))
                self.assertIn("loaded locally", "".join(logs.output))
                self.assertEqual(found.keys(), wanted.keys())
                other = [n for n, each in wanted.items() if not torch.equal(found[n], each)]
                self.assertEqual(other, [])


if __name__ == "__main__":
    unittest.main()
