"""Packs that many people have, on real ComfyUI: what they do inside the net is refused by name or
computed here. LUNA_TEST_PACKS is a folder with ComfyUI_IPAdapter_plus and
ComfyUI-AnimateDiff-Evolved in it (their licence is the GPL: nothing of them is in this repository).
Their calls, without them: test_refusals.py."""

import os
import unittest
from pathlib import Path

if not os.environ.get("COMFYUI_PATH"):
    raise unittest.SkipTest("COMFYUI_PATH is not set")

import torch  # noqa: E402
from graph import Graph  # noqa: E402
from harness import Comfy, Daemon, Folder, PromptFailed, make_models  # noqa: E402
from results import keep  # noqa: E402

PACKS = os.environ.get("LUNA_TEST_PACKS")
NAMES = ("ComfyUI_IPAdapter_plus", "ComfyUI-AnimateDiff-Evolved")
# Of the latent's largest value.
TOLERANCE = 1e-4
ADVICE = "use force_local for this branch"


def ip_adapter(mode):
    g = Graph()
    model, clip, _ = g.router(mode)
    model = g.IPAdapterEmbeds(
        model=model, ipadapter=g.IPAdapterModelLoader(ipadapter_file="ip-adapter.safetensors"),
        pos_embed=g.IPAdapterLoadEmbeds(embeds="picture.ipadpt"),
        neg_embed=g.IPAdapterLoadEmbeds(embeds="nothing.ipadpt"),
        weight=0.8, weight_type="linear", start_at=0.0, end_at=0.7, embeds_scaling="V only",
    )  # fmt: skip
    return g.save(g.sample(model, g.prompts(clip), steps=4)).nodes


def _video(mode, put):
    g = Graph()
    _, clip, _ = g.router(mode)
    model = g.LunaUNETLoader(unet_name="sd1-motion.safetensors", daemon_mode=mode)
    return g.save(g.sample(put(g, model), g.prompts(clip), g.empty(batch=3), steps=2)).nodes


def motion_model(mode):
    return _video(
        mode,
        lambda g, model: g.ADE_AnimateDiffLoaderGen1(
            model=model, model_name="motion.safetensors", beta_schedule="autoselect"
        ),
    )


def motion_model_gen2(mode):
    def put(g, model):
        motion = g.ADE_ApplyAnimateDiffModelSimple(
            motion_model=g.ADE_LoadAnimateDiffModel(model_name="motion.safetensors")
        )
        return g.ADE_UseEvolvedSampling(
            model=model, beta_schedule="sqrt_linear (AnimateDiff)", m_models=motion
        )

    return _video(mode, put)


def evolved_sampling(mode):
    """AnimateDiff's sampling in windows, without a motion model: outside the net."""

    def put(g, model):
        windows = g.ADE_StandardStaticContextOptions(context_length=2, context_overlap=1)
        return g.ADE_UseEvolvedSampling(
            model=model, beta_schedule="use existing", context_options=windows
        )

    return _video(mode, put)


@unittest.skipUnless(PACKS, "LUNA_TEST_PACKS, a folder with the packs, is not set")
class Packs(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        others = [Path(PACKS, name) for name in NAMES]
        missing = [each.name for each in others if not each.is_dir()]
        if missing:
            raise unittest.SkipTest(f"LUNA_TEST_PACKS has no {' and no '.join(missing)}")
        make_models("narrow")
        make_models("packs")
        cls.place = Folder()
        folder = cls.place.__enter__()
        for number, name in enumerate(("picture", "nothing")):
            (folder / "packs" / "input").mkdir(parents=True, exist_ok=True)
            embedding = torch.randn(1, 1024, generator=torch.Generator().manual_seed(number))
            torch.save(embedding, folder / "packs" / "input" / f"{name}.ipadpt")
        cls.daemon = Daemon(folder)
        cls.comfy = Comfy(folder, "packs", {"LUNA_DAEMON_URL": cls.daemon.url}, others=others)

    @classmethod
    def tearDownClass(cls):
        cls.comfy.stop()
        cls.daemon.stop()
        cls.place.__exit__()

    def latent(self, workflow):
        self.comfy.run(workflow)
        return self.comfy.latents("latents/case")

    def near(self, name, found, wanted):
        difference = ((found - wanted).abs().max() / wanted.abs().max()).item()
        self.assertLess(difference, TOLERANCE)
        keep("packs", [{"case": name, "difference": difference}])

    def refused_or_local(self, name, workflow, text):
        with self.assertRaisesRegex(PromptFailed, f"{text}.*{ADVICE}"):
            self.comfy.run(workflow("force_daemon"))
        seen = len(self.comfy.output())
        found = self.latent(workflow("auto"))
        log = self.comfy.output()[seen:]
        self.assertRegex(log, f"Warning: .*{text}.*Going on locally")
        self.near(name, found, self.latent(workflow("force_local")))

    def test_ip_adapter(self):
        self.refused_or_local("IPAdapter", ip_adapter, r"IPAdapter .*Attn2Replace")

    def test_animate_diff(self):
        text = r"AnimateDiff .*motion_module_ad\.VanillaTemporalModule.* into the net at input_blocks\.1\.2"
        self.refused_or_local("AnimateDiff", motion_model, text)
        self.refused_or_local("AnimateDiff, Gen2 nodes", motion_model_gen2, text)

    def test_animate_diffs_sampling_alone_runs_in_the_daemon(self):
        seen = len(self.comfy.output())
        found = self.latent(evolved_sampling("force_daemon"))
        self.assertIn("Sliding context window sampling", self.comfy.output()[seen:])
        self.near("AnimateDiff's windows", found, self.latent(evolved_sampling("force_local")))


if __name__ == "__main__":
    unittest.main()
