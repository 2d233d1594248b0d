"""Controls, regions, families, guidance, caches, what the daemon does not do; models of full width."""

from matrix_case import FULL_CASES, case


def _custom(g, guider, model, latent=None, sigmas=None, noise=None):
    return g.SamplerCustomAdvanced(
        noise=noise or g.RandomNoise(noise_seed=7), guider=guider,
        sampler=g.KSamplerSelect(sampler_name="dpmpp_2m"),
        sigmas=sigmas or g.BasicScheduler(model=model, scheduler="karras", steps=10, denoise=1.0),
        latent_image=latent or g.empty(),
    )  # fmt: skip


def _controlled(g, conds, name, strength=0.8, start=0.0, end=1.0, kind=None):
    net = g.ControlNetLoader(control_net_name=f"{name}.safetensors")
    if kind is not None:
        net = g.SetUnionControlNetType(control_net=net, type=kind)
    made = g.ControlNetApplyAdvanced(
        positive=conds[0], negative=conds[1], strength=strength, start_percent=start, end_percent=end,
        control_net=net,
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


def _wide(g):
    _, clip, _ = g.checkpoint()
    return g.UNETLoader(unet_name="sd1-wide.safetensors", weight_dtype="default"), g.prompts(clip)


for _kind in ("depth", "canny/lineart/anime_lineart/mlsd", "auto"):

    @case(f"ControlNet-Union: {_kind.split('/')[0]}")
    def _(g, kind=_kind):
        model, conds = _wide(g)
        g.save(g.sample(model, _controlled(g, conds, "union", kind=kind)))


@case("ControlNet-Union: two of its types, chained")
def _(g):
    model, conds = _wide(g)
    conds = _controlled(g, conds, "union", 0.6, kind="openpose")
    conds = _controlled(g, conds, "union", 0.5, 0.1, 0.8, kind="normal")
    g.save(g.sample(model, conds))


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


@case("PerpNeg")
def _(g):
    model, clip, _ = g.checkpoint()
    empty = g.CLIPTextEncode(clip=clip, text="")
    model = g.PerpNeg(model=model, empty_conditioning=empty, neg_scale=1.0)
    g.save(g.sample(model, g.prompts(clip)))


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
        model, conds = _wide(g)
        g.save(g.sample(getattr(g, node)(model=model, **numbers), conds))


@case("PerturbedAttentionGuidance")
def _(g):
    model, clip, _ = g.checkpoint()
    g.save(g.sample(g.PerturbedAttentionGuidance(model=model, scale=3.0), g.prompts(clip)))


@case("SelfAttentionGuidance", expects="local")
def _(g):
    model, clip, _ = g.checkpoint()
    model = g.SelfAttentionGuidance(model=model, scale=0.5, blur_sigma=2.0)
    g.save(g.sample(model, g.prompts(clip), g.empty(128, 128)))


@case("NAGuidance", expects="local")
def _(g):
    model, clip, _ = g.checkpoint()
    model = g.NAGuidance(model=model, nag_scale=5.0, nag_alpha=0.5, nag_tau=1.5)
    g.save(g.sample(model, g.prompts(clip)))


@case("PatchModelAddDownscale (Deep Shrink)", expects="local")
def _(g):
    model, clip, _ = g.checkpoint()
    model = g.PatchModelAddDownscale(
        model=model, block_number=1, downscale_factor=2.0, start_percent=0.0, end_percent=0.35,
        downscale_after_skip=True, downscale_method="bicubic", upscale_method="bicubic",
    )  # fmt: skip
    g.save(g.sample(model, g.prompts(clip)))


@case("HypernetworkLoader", expects="local")
def _(g):
    model, clip, _ = g.checkpoint()
    model = g.HypernetworkLoader(model=model, hypernetwork_name="style.pt", strength=0.7)
    g.save(g.sample(model, g.prompts(clip)))


@case("GLIGENTextBoxApply", expects="local")
def _(g):
    model, clip, _ = g.checkpoint()
    positive, negative = g.prompts(clip)
    positive = g.GLIGENTextBoxApply(
        conditioning_to=positive, clip=clip,
        gligen_textbox_model=g.GLIGENLoader(gligen_name="boxes.safetensors"),
        text="a lighthouse", width=32, height=24, x=16, y=8,
    )  # fmt: skip
    g.save(g.sample(model, (positive, negative)))


@case("ModelMergeSimple", expects="local", named="merge of models")
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


@case(
    "TomePatchModel is left out", expects="ignored", note="with ratio 0 it merges nothing anywhere"
)
def _(g):
    model, clip, _ = g.checkpoint()
    g.save(g.sample(g.TomePatchModel(model=model, ratio=0.0), g.prompts(clip)))


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
