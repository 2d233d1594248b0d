"""Workflows in API form, a node a call; what a node gives is a link."""


class Link(list):
    """["node", output]; `link[1]` of a node's first link is its second output."""

    def out(self, number):
        return Link([self[0], number])


class Graph:
    def __init__(self):
        self.nodes = {}

    def __getattr__(self, class_type):
        def add(**inputs):
            name = str(len(self.nodes) + 1)
            self.nodes[name] = {"class_type": class_type, "inputs": inputs}
            return Link([name, 0])

        return add

    # Shorthands of the workflows here: 64x64 pixels, ten steps.

    def checkpoint(self, name="sd1"):
        loaded = self.CheckpointLoaderSimple(ckpt_name=f"{name}.safetensors")
        return loaded, loaded.out(1), loaded.out(2)

    def router(self, mode, name="sd1"):
        loaded = self.LunaModelRouter(ckpt_name=f"{name}.safetensors", daemon_mode=mode)
        return loaded, loaded.out(1), loaded.out(2)

    def prompts(self, clip, positive="a red house by the sea", negative="blurry"):
        return self.CLIPTextEncode(clip=clip, text=positive), self.CLIPTextEncode(
            clip=clip, text=negative
        )

    def conds(self, width=768, pooled=0, tokens=77):
        return tuple(
            self.TestConditioning(seed=seed, tokens=tokens, width=width, pooled=pooled)
            for seed in (1, 2)
        )

    def empty(self, width=64, height=64, batch=1):
        return self.EmptyLatentImage(width=width, height=height, batch_size=batch)

    def sample(self, model, conds, latent=None, **changes):
        positive, negative = conds
        settings = {
            "seed": 7, "steps": 10, "cfg": 5.0, "sampler_name": "euler", "scheduler": "normal",
            "denoise": 1.0, **changes,
        }  # fmt: skip
        return self.KSampler(
            model=model,
            positive=positive,
            negative=negative,
            latent_image=latent or self.empty(),
            **settings,
        )

    def save(self, latent, name="latents/case"):
        self.SaveLatent(samples=latent, filename_prefix=name)
        return self

    def picture(self, image, name="case"):
        self.SaveImage(images=image, filename_prefix=name)
        return self

    def loras(self, model, *stack):
        """(name, strength) on the model alone."""
        for name, strength in stack:
            model = self.LoraLoaderModelOnly(
                model=model, lora_name=f"{name}.safetensors", strength_model=strength
            )
        return model
