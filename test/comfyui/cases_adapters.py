"""LoRAs of all kinds, hooks, multiplied weights."""

from matrix_case import case


for _name, _stack in {
    "LoRA": (("a", 0.8),),
    "LoRA, two": (("a", 0.8), ("b", 0.5)),
    "LoRA, the same twice": (("a", 0.3), ("a", 0.4)),
    "LoRA, negative strength": (("a", -0.6),),
    "LoRA, strength 0": (("a", 0.0),),
    "LoCon (convolutions)": (("locon", 0.9),),
    "Tucker": (("tucker", 0.9),),
    "LoHa": (("loha", 0.9),),
    "LoKr": (("lokr", 0.9),),
    "LoRA, LoHa and LoKr together": (("a", 0.5), ("loha", 0.4), ("lokr", -0.5)),
    "DoRA": (("dora", 0.8),),
    "LoKr with two full factors": (("lokr-full", 0.8),),
    "GLoRA": (("glora", 0.8),),
    "LoKr with two full factors and DoRA": (("lokr-dora", 0.8),),
    "OFT": (("oft", 0.8),),
    "BOFT": (("boft", 0.8),),
    "OFT with a limit and DoRA": (("oft-dora", 0.8),),
    "BOFT with a limit and DoRA, after a LoRA": (("a", 0.4), ("boft-dora", 0.8)),
    "diff, biases too": (("diff", 0.8),),
    "LoRA that names its layers in two ways": (("twice", 0.8),),
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
