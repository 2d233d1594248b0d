"""
The matrix: workflows of stock nodes only. Each runs in a ComfyUI without the pack and, unchanged, in
one that takes over; the saved latents (and pictures) are compared. `expects` is what the pack is to
do: "daemon" for all steps there, "local" for auto's way out with a warning, "ignored" for a node
that is left out with one.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from graph import Graph

SAMPLERS = (
    "euler", "euler_ancestral", "heun", "dpmpp_2m", "dpmpp_2m_sde", "dpmpp_sde", "lms", "uni_pc",
)  # fmt: skip
SCHEDULERS = ("normal", "karras")


@dataclass(frozen=True)
class Case:
    name: str
    workflow: dict
    expects: str = "daemon"
    # A picture is compared too.
    has_picture: bool = False
    note: str = ""


# Narrow models, and those of full width.
CASES, FULL_CASES = [], []


def case(name, expects="daemon", has_picture=False, note="", tier=CASES):
    def add(build):
        graph = Graph()
        build(graph)
        tier.append(Case(name, graph.nodes, expects, has_picture, note))
        return build

    return add


for _sampler in SAMPLERS:
    for _scheduler in SCHEDULERS:

        @case(f"txt2img {_sampler} {_scheduler}")
        def _(g, sampler=_sampler, scheduler=_scheduler):
            model, clip, _ = g.checkpoint()
            g.save(g.sample(model, g.prompts(clip), sampler_name=sampler, scheduler=scheduler))


@case("txt2img with picture", has_picture=True)
def _(g):
    model, clip, vae = g.checkpoint()
    latent = g.sample(model, g.prompts(clip))
    g.save(latent)
    g.picture(g.VAEDecode(samples=latent, vae=vae))


@case("img2img", has_picture=True)
def _(g):
    model, clip, vae = g.checkpoint()
    latent = g.VAEEncode(pixels=g.TestImage(seed=1, width=64, height=64), vae=vae)
    latent = g.sample(model, g.prompts(clip), latent, denoise=0.6)
    g.save(latent)
    g.picture(g.VAEDecode(samples=latent, vae=vae))


@case("VAE tiled", has_picture=True)
def _(g):
    _, _, vae = g.checkpoint()
    latent = g.VAEEncode(pixels=g.TestImage(seed=1, width=192, height=128), vae=vae)
    g.save(latent)
    g.picture(g.VAEDecodeTiled(
        samples=latent, vae=vae, tile_size=64, overlap=16, temporal_size=64, temporal_overlap=8
    ))  # fmt: skip


@case("split files: UNETLoader, CLIPLoader, VAELoader", has_picture=True)
def _(g):
    model = g.UNETLoader(unet_name="sd1-other.safetensors", weight_dtype="default")
    clip = g.CLIPLoader(clip_name="clip_l.safetensors", type="stable_diffusion")
    latent = g.sample(model, g.prompts(clip))
    g.save(latent)
    g.picture(g.VAEDecode(samples=latent, vae=g.VAELoader(vae_name="vae.safetensors")))


@case("inpaint, noise mask")
def _(g):
    model, clip, vae = g.checkpoint()
    image = g.TestImage(seed=2, width=64, height=64)
    latent = g.SetLatentNoiseMask(samples=g.VAEEncode(pixels=image, vae=vae), mask=image.out(1))
    g.save(g.sample(model, g.prompts(clip), latent))


@case("inpaint, VAEEncodeForInpaint and DifferentialDiffusion")
def _(g):
    model, clip, vae = g.checkpoint()
    image = g.TestImage(seed=2, width=64, height=64)
    latent = g.VAEEncodeForInpaint(pixels=image, vae=vae, mask=image.out(1), grow_mask_by=6)
    g.save(g.sample(g.DifferentialDiffusion(model=model, strength=1.0), g.prompts(clip), latent))


@case("inpaint, 9-channel model")
def _(g):
    _, clip, vae = g.checkpoint()
    model, _, _ = g.checkpoint("sd1-inpaint")
    positive, negative = g.prompts(clip)
    image = g.TestImage(seed=2, width=64, height=64)
    made = g.InpaintModelConditioning(
        positive=positive,
        negative=negative,
        vae=vae,
        pixels=image,
        mask=image.out(1),
        noise_mask=True,
    )
    g.save(g.sample(model, (made, made.out(1)), made.out(2)))


@case("hires fix: two samplers, latent upscale")
def _(g):
    model, clip, _ = g.checkpoint()
    conds = g.prompts(clip)
    small = g.sample(model, conds)
    large = g.LatentUpscaleBy(samples=small, upscale_method="bislerp", scale_by=1.5)
    g.save(g.sample(model, conds, large, denoise=0.5))


@case("batch of 4")
def _(g):
    model, clip, _ = g.checkpoint()
    g.save(g.sample(model, g.prompts(clip), g.empty(batch=4)))


@case("odd size 72x104")
def _(g):
    model, clip, _ = g.checkpoint()
    g.save(g.sample(model, g.prompts(clip), g.empty(72, 104)))


@case("long prompt, 3 sections")
def _(g):
    model, clip, _ = g.checkpoint()
    g.save(g.sample(model, g.prompts(clip, "a house and a tree and a dog " * 24)))


@case("prompt weights and embeddings")
def _(g):
    model, clip, _ = g.checkpoint()
    g.save(g.sample(model, g.prompts(clip, "a (red:1.4) embedding:thing in [fog]", "(bad:0.7)")))


@case("clip skip 2")
def _(g):
    model, clip, _ = g.checkpoint()
    g.save(g.sample(model, g.prompts(g.CLIPSetLastLayer(clip=clip, stop_at_clip_layer=-2))))


def _custom(g, guider, model, latent=None, sigmas=None, noise=None):
    return g.SamplerCustomAdvanced(
        noise=noise or g.RandomNoise(noise_seed=7), guider=guider,
        sampler=g.KSamplerSelect(sampler_name="dpmpp_2m"),
        sigmas=sigmas or g.BasicScheduler(model=model, scheduler="karras", steps=10, denoise=1.0),
        latent_image=latent or g.empty(),
    )  # fmt: skip


for _name, _stack in {
    "LoRA": (("a", 0.8),),
    "LoRA, two": (("a", 0.8), ("b", 0.5)),
    "LoRA, the same twice": (("a", 0.3), ("a", 0.4)),
    "LoRA, negative strength": (("a", -0.6),),
    "LoRA, strength 0": (("a", 0.0),),
    "Tucker": (("tucker", 0.9),),
    "LoHa": (("loha", 0.9),),
    "LoKr": (("lokr", 0.9),),
    "LoRA, LoHa and LoKr together": (("a", 0.5), ("loha", 0.4), ("lokr", -0.5)),
    "DoRA": (("dora", 0.8),),
    "LoKr with two full factors": (("lokr-full", 0.8),),
    "GLoRA": (("glora", 0.8),),
    "OFT": (("oft", 0.8),),
    "BOFT": (("boft", 0.8),),
    "diff, biases too": (("diff", 0.8),),
    "LoRA, then DoRA, then LoRA: the order counts": (("a", 0.5), ("dora", 0.7), ("b", -0.4)),
}.items():

    @case(_name)
    def _(g, stack=_stack):
        model, clip, _ = g.checkpoint()
        g.save(g.sample(g.loras(model, *stack), g.prompts(clip)))


@case("CLIP LoRA")
def _(g):
    model, clip, _ = g.checkpoint()
    loaded = g.LoraLoader(
        model=model, clip=clip, lora_name="text.safetensors", strength_model=0.5, strength_clip=0.9
    )
    g.save(g.sample(loaded, g.prompts(loaded.out(1))))


@case("bypass LoRA")
def _(g):
    model, clip, _ = g.checkpoint()
    model = g.LoraLoaderBypassModelOnly(model=model, lora_name="a.safetensors", strength_model=0.8)
    g.save(g.sample(model, g.prompts(clip)))


@case("bypass LoRA on model and CLIP")
def _(g):
    model, clip, _ = g.checkpoint()
    loaded = g.LoraLoaderBypass(
        model=model, clip=clip, lora_name="text.safetensors", strength_model=0.5, strength_clip=0.9
    )
    g.save(g.sample(loaded, g.prompts(loaded.out(1))))


def _hooked(g, positive, negative, hooks):
    made = g.PairConditioningSetProperties(
        positive_NEW=positive,
        negative_NEW=negative,
        strength=1.0,
        set_cond_area="default",
        hooks=hooks,
    )
    return made, made.out(1)


@case("hooks: LoRA on both conds")
def _(g):
    model, clip, _ = g.checkpoint()
    hooks = g.CreateHookLora(lora_name="a.safetensors", strength_model=0.8, strength_clip=0.0)
    g.save(g.sample(model, _hooked(g, *g.prompts(clip), hooks)))


@case("hooks: LoRA on the positive alone, another on the model")
def _(g):
    model, clip, _ = g.checkpoint()
    positive, negative = g.prompts(clip)
    hooks = g.CreateHookLoraModelOnly(lora_name="b.safetensors", strength_model=0.8)
    hooked, _ = _hooked(g, positive, negative, hooks)
    g.save(g.sample(g.loras(model, ("a", 0.5)), (hooked, negative)))


@case("hooks with keyframes")
def _(g):
    model, clip, _ = g.checkpoint()
    frames = g.CreateHookKeyframe(strength_mult=1.0, start_percent=0.0)
    frames = g.CreateHookKeyframe(strength_mult=0.0, start_percent=0.4, prev_hook_kf=frames)
    frames = g.CreateHookKeyframe(strength_mult=0.5, start_percent=0.7, prev_hook_kf=frames)
    hooks = g.CreateHookLora(lora_name="a.safetensors", strength_model=0.8, strength_clip=0.0)
    hooks = g.SetHookKeyframes(hooks=hooks, hook_kf=frames)
    g.save(g.sample(model, _hooked(g, *g.prompts(clip), hooks)))


@case("hooks on CLIP, scheduled")
def _(g):
    model, clip, _ = g.checkpoint()
    frames = g.CreateHookKeyframe(strength_mult=1.0, start_percent=0.0)
    frames = g.CreateHookKeyframe(strength_mult=0.2, start_percent=0.5, prev_hook_kf=frames)
    hooks = g.CreateHookLora(lora_name="text.safetensors", strength_model=0.6, strength_clip=0.9)
    hooks = g.SetHookKeyframes(hooks=hooks, hook_kf=frames)
    clip = g.SetClipHooks(clip=clip, apply_to_conds=True, schedule_clip=True, hooks=hooks)
    g.save(g.sample(model, g.prompts(clip)))


@case("attention multiply, with a LoRA before it")
def _(g):
    model, clip, _ = g.checkpoint()
    model = g.loras(model, ("a", 0.5))
    model = g.UNetSelfAttentionMultiply(model=model, q=0.9, k=1.1, v=1.2, out=0.8)
    g.save(g.sample(model, g.prompts(clip)))


@case("attention multiply in CLIP")
def _(g):
    model, clip, _ = g.checkpoint()
    clip = g.CLIPAttentionMultiply(clip=clip, q=0.9, k=1.1, v=1.2, out=0.8)
    g.save(g.sample(model, g.prompts(clip)))


def _controlled(g, conds, name, strength=0.8, start=0.0, end=1.0):
    made = g.ControlNetApplyAdvanced(
        positive=conds[0], negative=conds[1], strength=strength, start_percent=start, end_percent=end,
        control_net=g.ControlNetLoader(control_net_name=f"{name}.safetensors"),
        image=g.TestImage(seed=5, width=64, height=64),
    )  # fmt: skip
    return made, made.out(1)


@case("ControlNet")
def _(g):
    model, clip, _ = g.checkpoint()
    g.save(g.sample(model, _controlled(g, g.prompts(clip), "canny")))


@case("ControlNet, part of the steps, batch of 2")
def _(g):
    model, clip, _ = g.checkpoint()
    conds = _controlled(g, g.prompts(clip), "canny", 0.5, 0.2, 0.7)
    g.save(g.sample(model, conds, g.empty(batch=2)))


@case("T2I-Adapter")
def _(g):
    model, clip, _ = g.checkpoint()
    g.save(g.sample(model, _controlled(g, g.prompts(clip), "sketch")))


@case("ControlNet after T2I-Adapter, with a LoRA")
def _(g):
    model, clip, _ = g.checkpoint()
    conds = _controlled(g, _controlled(g, g.prompts(clip), "sketch", 0.6), "canny", 0.5)
    g.save(g.sample(g.loras(model, ("a", 0.5)), conds))


@case("Control-LoRA")
def _(g):
    model, clip, _ = g.checkpoint()
    g.save(g.sample(model, _controlled(g, g.prompts(clip), "control-lora")))


@case("regional by area")
def _(g):
    model, clip, _ = g.checkpoint()
    positive, negative = g.prompts(clip)
    other, _ = g.prompts(clip, "a green tree")
    area = g.ConditioningSetAreaPercentage(
        conditioning=other, width=0.37, height=0.53, x=0.2, y=0.1, strength=1.0
    )
    both = g.ConditioningCombine(conditioning_1=positive, conditioning_2=area)
    g.save(g.sample(model, (both, negative), g.empty(136, 136)))


@case("regional by mask")
def _(g):
    model, clip, _ = g.checkpoint()
    positive, negative = g.prompts(clip)
    other, _ = g.prompts(clip, "a green tree")
    image = g.TestImage(seed=3, width=64, height=64)
    masked = g.ConditioningSetMask(
        conditioning=other, mask=image.out(1), strength=0.9, set_cond_area="mask bounds"
    )
    both = g.ConditioningCombine(conditioning_1=positive, conditioning_2=masked)
    g.save(g.sample(model, (both, negative)))


@case("timestep ranges")
def _(g):
    model, clip, _ = g.checkpoint()
    positive, negative = g.prompts(clip)
    other, _ = g.prompts(clip, "a green tree")
    early = g.ConditioningSetTimestepRange(conditioning=positive, start=0.0, end=0.4)
    late = g.ConditioningSetTimestepRange(conditioning=other, start=0.4, end=1.0)
    both = g.ConditioningCombine(conditioning_1=early, conditioning_2=late)
    g.save(g.sample(model, (both, negative)))


for _sampling, _zsnr, _sampler, _cfg in (
    ("v_prediction", False, "euler", 5.0),
    ("v_prediction", True, "euler", 5.0),
    ("lcm", False, "lcm", 1.0),
):

    @case(f"ModelSamplingDiscrete {_sampling}{' zsnr' if _zsnr else ''}, then the base model")
    def _(g, sampling=_sampling, zsnr=_zsnr, sampler=_sampler, cfg=_cfg):
        model, clip, _ = g.checkpoint()
        conds = g.prompts(clip)
        other = g.ModelSamplingDiscrete(model=model, sampling=sampling, zsnr=zsnr)
        first = g.sample(other, conds, sampler_name=sampler, cfg=cfg)
        g.save(g.sample(model, conds, first, denoise=0.5))


@case("ModelSamplingContinuousEDM (fractional, negative timesteps)")
def _(g):
    model, clip, _ = g.checkpoint()
    model = g.ModelSamplingContinuousEDM(
        model=model, sampling="v_prediction", sigma_max=120.0, sigma_min=0.002
    )
    g.save(g.sample(model, g.prompts(clip), scheduler="karras"))


@case("SDXL")
def _(g):
    model, _, _ = g.checkpoint("sdxl")
    g.save(g.sample(model, g.conds(2048, 1280)))


@case("SDXL, v-prediction and zero terminal SNR from root keys")
def _(g):
    model, _, _ = g.checkpoint("sdxl-v")
    g.save(g.sample(model, g.conds(2048, 1280)))


@case("SDXL base and refiner")
def _(g):
    base, _, _ = g.checkpoint("sdxl")
    refiner, _, _ = g.checkpoint("refiner")
    first = g.KSamplerAdvanced(
        model=base, add_noise="enable", noise_seed=7, steps=10, cfg=5.0, sampler_name="euler",
        scheduler="normal", positive=g.conds(2048, 1280)[0], negative=g.conds(2048, 1280)[1],
        latent_image=g.empty(), start_at_step=0, end_at_step=7, return_with_leftover_noise="enable",
    )  # fmt: skip
    positive, negative = g.conds(1280, 1280)
    g.save(g.KSamplerAdvanced(
        model=refiner, add_noise="disable", noise_seed=7, steps=10, cfg=5.0, sampler_name="euler",
        scheduler="normal", positive=positive, negative=negative, latent_image=first, start_at_step=7,
        end_at_step=10000, return_with_leftover_noise="disable",
    ))  # fmt: skip


@case("RescaleCFG")
def _(g):
    model, clip, _ = g.checkpoint()
    g.save(g.sample(g.RescaleCFG(model=model, multiplier=0.7), g.prompts(clip)))


@case("PerpNegGuider")
def _(g):
    model, clip, _ = g.checkpoint()
    positive, negative = g.prompts(clip)
    guider = g.PerpNegGuider(
        model=model, positive=positive, negative=negative, cfg=5.0, neg_scale=1.0,
        empty_conditioning=g.CLIPTextEncode(clip=clip, text=""),
    )  # fmt: skip
    g.save(_custom(g, guider, model))


@case("SamplerCustomAdvanced, split sigmas")
def _(g):
    model, clip, _ = g.checkpoint()
    positive, negative = g.prompts(clip)
    guider = g.CFGGuider(model=model, positive=positive, negative=negative, cfg=5.0)
    split = g.SplitSigmas(
        sigmas=g.BasicScheduler(model=model, scheduler="karras", steps=10, denoise=1.0), step=6
    )
    first = _custom(g, guider, model, sigmas=split)
    plain = g.BasicGuider(model=model, conditioning=positive)
    g.save(_custom(g, plain, model, first, split.out(1), g.DisableNoise()))


@case("EasyCache")
def _(g):
    model, clip, _ = g.checkpoint()
    model = g.EasyCache(
        model=model, reuse_threshold=0.3, start_percent=0.1, end_percent=0.95, verbose=True
    )
    g.save(g.sample(model, g.prompts(clip)))


@case("LazyCache")
def _(g):
    model, clip, _ = g.checkpoint()
    model = g.LazyCache(
        model=model, reuse_threshold=0.3, start_percent=0.1, end_percent=0.95, verbose=False
    )
    g.save(g.sample(model, g.prompts(clip)))


@case("ContextWindows")
def _(g):
    model, clip, _ = g.checkpoint()
    model = g.ContextWindowsManual(
        model=model, context_length=8, context_overlap=4, context_schedule="standard_static",
        context_stride=1, closed_loop=False, fuse_method="pyramid", dim=3, freenoise=False,
        cond_retain_index_list="", split_conds_to_windows=False,
    )  # fmt: skip
    g.save(g.sample(model, g.prompts(clip), g.empty(128, 64)))


for _node, _numbers in {
    "FreeU": {"b1": 1.1, "b2": 1.2, "s1": 0.9, "s2": 0.2},
    "FreeU_V2": {"b1": 1.3, "b2": 1.4, "s1": 0.9, "s2": 0.2},
}.items():

    @case(_node)
    def _(g, node=_node, numbers=_numbers):
        _, clip, _ = g.checkpoint()
        model = g.UNETLoader(unet_name="sd1-wide.safetensors", weight_dtype="default")
        g.save(g.sample(getattr(g, node)(model=model, **numbers), g.prompts(clip)))


@case("PerturbedAttentionGuidance")
def _(g):
    model, clip, _ = g.checkpoint()
    g.save(g.sample(g.PerturbedAttentionGuidance(model=model, scale=3.0), g.prompts(clip)))


@case("SelfAttentionGuidance", expects="local")
def _(g):
    model, clip, _ = g.checkpoint()
    model = g.SelfAttentionGuidance(model=model, scale=0.5, blur_sigma=2.0)
    g.save(g.sample(model, g.prompts(clip), g.empty(128, 128)))


@case("ModelMergeSimple", expects="local")
def _(g):
    model, clip, _ = g.checkpoint()
    other = g.UNETLoader(unet_name="sd1-other.safetensors", weight_dtype="default")
    merged = g.ModelMergeSimple(model1=model, model2=other, ratio=0.7)
    g.save(g.sample(merged, g.prompts(clip)))


@case(
    "HyperTile is left out", expects="ignored", note="at this size HyperTile itself changes nothing"
)
def _(g):
    model, clip, _ = g.checkpoint()
    model = g.HyperTile(model=model, tile_size=256, swap_size=2, max_depth=0, scale_depth=False)
    g.save(g.sample(model, g.prompts(clip)))


# As the frontend's "Export (API)" wrote it (make_pictures.py).
_exported = Path(__file__).parent / "workflows" / "exported.json"
CASES.append(
    Case(
        "a workflow exported from the frontend", json.loads(_exported.read_text()), has_picture=True
    )
)


@case("full SD1.5, LoRA on all layers", has_picture=True, tier=FULL_CASES)
def _(g):
    model, clip, vae = g.checkpoint("full-sd1")
    latent = g.sample(g.loras(model, ("full", 0.8)), g.prompts(clip), g.empty(256, 192))
    g.save(latent)
    g.picture(g.VAEDecode(samples=latent, vae=vae))


@case("full SD1.5, FreeU_V2 and PerturbedAttentionGuidance", tier=FULL_CASES)
def _(g):
    model, clip, _ = g.checkpoint("full-sd1")
    model = g.FreeU_V2(model=model, b1=1.3, b2=1.4, s1=0.9, s2=0.2)
    model = g.PerturbedAttentionGuidance(model=model, scale=2.0)
    g.save(g.sample(model, g.prompts(clip), g.empty(128, 192)))


@case("SDXL's two text encoders, size conditioning, embeddings in one, CLIP LoRA", tier=FULL_CASES)
def _(g):
    model, _, _ = g.checkpoint("sdxl")
    clip = g.DualCLIPLoader(
        clip_name1="clip_l.safetensors", clip_name2="clip_g.safetensors", type="sdxl"
    )
    clip = g.LoraLoader(
        model=model,
        clip=clip,
        lora_name="text-xl.safetensors",
        strength_model=0.0,
        strength_clip=0.8,
    ).out(1)
    conds = [
        g.CLIPTextEncodeSDXL(
            clip=clip,
            text_g=text,
            text_l=f"{text} embedding:thing",
            width=1024,
            height=1024,
            crop_w=0,
            crop_h=16,
            target_width=1024,
            target_height=768,
        )  # fmt: skip
        for text in ("a (red:1.3) house by the sea", "blurry")
    ]
    g.save(g.sample(model, conds))
