"""Samplers, pictures in and out, prompts, sizes."""

from matrix_case import case

SAMPLERS = (
    "euler", "euler_ancestral", "heun", "dpmpp_2m", "dpmpp_2m_sde", "dpmpp_sde", "lms", "uni_pc",
)  # fmt: skip
SCHEDULERS = ("normal", "karras")


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
