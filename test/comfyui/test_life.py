"""Real ComfyUI processes and a real daemon: no daemon, a daemon that dies, interrupts, modes, many
processes at once."""

import os
import time
import unittest

if not os.environ.get("COMFYUI_PATH"):
    raise unittest.SkipTest("COMFYUI_PATH is not set")

import torch  # noqa: E402
from graph import Graph  # noqa: E402
from harness import COMFYUI, Comfy, Daemon, Folder, PromptFailed, make_models  # noqa: E402
from results import keep  # noqa: E402

# Of the latent's largest value.
TOLERANCE = 1e-4
LONG = 60
# Another prompt each time, so that ComfyUI does not answer from its cache.
_seeds = iter(range(1000, 10_000))


def picture(mode, steps=10, loras=(), seed=7, node=None):
    """A workflow with LunaModelRouter; `node(graph, model)` puts something on the model."""
    graph = Graph()
    model, clip, _ = graph.router(mode)
    model = graph.loras(model, *loras)
    model = node(graph, model) if node else model
    return graph.save(graph.sample(model, graph.prompts(clip), steps=steps, seed=seed)).nodes


class Life(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        make_models("narrow")
        cls.place = Folder()
        folder = cls.place.__enter__()
        cls.folder = folder
        cls.daemon = Daemon(folder)
        # Longer than a daemon takes to start and to open the model, here beside other work.
        patience = {"LUNA_RECONNECT_SECONDS": "15"}
        cls.comfy = Comfy(folder, "one", {"LUNA_DAEMON_URL": cls.daemon.url, **patience})
        cls.alone = Comfy(folder, "alone", patience)

    @classmethod
    def tearDownClass(cls):
        for each in (cls.comfy, cls.alone, cls.daemon):
            each.stop()
        cls.place.__exit__()

    def near(self, one, other):
        """The largest difference, of the scale."""
        found = ((one - other).abs().max() / other.abs().max()).item()
        self.assertLess(found, TOLERANCE)
        return found

    def tell(self, case, result):
        text = f"difference / scale {result:.1e}" if isinstance(result, float) else result
        keep("life", [{"case": case, "result": text}])

    def latent(self, comfy, workflow):
        comfy.run(workflow)
        return comfy.latents("latents/case")

    def restart_daemon(self):
        """The daemon again on the same port, whether it lives or not."""
        self.daemon.stop()
        type(self).daemon = Daemon(self.folder, self.daemon.port)

    def steps(self):
        return max((each["steps"] for each in self.daemon.status()["sessions"]), default=0)

    def after_some_steps(self, workflow):
        """Queues a long run and waits until it is in its middle."""
        before = self.steps()
        prompt = self.comfy.queue(workflow)
        self.comfy.wait_for(lambda: self.steps() > before + 4, "The middle of a run")
        return prompt

    def test_no_daemon(self):
        with self.assertRaisesRegex(PromptFailed, "Daemon is not running.*npx luna serve"):
            self.alone.run(picture("force_daemon"))
        local = self.latent(self.alone, picture("force_local"))
        self.assertTrue(torch.equal(self.latent(self.alone, picture("auto")), local))
        self.assertEqual(self.alone.output().count("Loading locally"), 1)

    def test_modes_agree_and_say_where_they_run(self):
        local = self.latent(self.comfy, picture("force_local"))
        found = self.near(self.latent(self.comfy, picture("force_daemon")), local)
        self.tell("force_daemon beside force_local in one process", found)
        for text in (
            "✓ Model registered with daemon: sd1",
            "✓ Using DaemonModel proxy - inference routes through daemon",
        ):
            self.assertIn(text, self.comfy.output())

    def test_what_the_daemon_cannot_do_is_an_error_in_force_daemon(self):
        def guided(g, model):
            return g.SelfAttentionGuidance(model=model, scale=0.5, blur_sigma=2.0)

        with self.assertRaisesRegex(
            PromptFailed, "SelfAttentionGuidance.*use force_local for this"
        ) as caught:
            self.comfy.run(picture("force_daemon", node=guided))
        text = str(caught.exception).strip().replace(COMFYUI + os.sep, "")
        self.tell("force_daemon with a node the daemon cannot do", f"“{text}”")

    def test_pollution(self):
        first = self.latent(self.comfy, picture("force_daemon", seed=11))
        self.comfy.run(picture("force_daemon", loras=(("a", 0.9), ("loha", 0.5)), seed=11))
        # The third node is another one only by the strength, which changes nothing.
        again = self.latent(self.comfy, picture("force_daemon", loras=(("b", 0.0),), seed=11))
        self.assertTrue(torch.equal(first, again))
        self.tell("a picture before and after other pictures with LoRAs", "bit-equal")

    def test_the_daemon_dies_and_another_takes_over(self):
        seed = next(_seeds)
        wanted = self.latent(self.comfy, picture("force_daemon", 40, (("a", 0.8),), seed))
        self.comfy.post("/free", {"free_memory": True})
        time.sleep(1)
        prompt = self.after_some_steps(picture("force_daemon", 40, (("a", 0.8),), seed))
        self.daemon.kill()
        self.restart_daemon()
        self.comfy.finish(prompt)
        self.assertTrue(torch.equal(self.comfy.latents("latents/case"), wanted))
        self.tell("daemon killed in the middle of a picture, another one started", "bit-equal")
        self.assertIn("Connected to the daemon again", self.comfy.output())

    def test_the_daemon_dies_for_good(self):
        seed = next(_seeds)
        local = self.latent(self.alone, picture("force_local", LONG, (("a", 0.8),), seed))
        prompt = self.after_some_steps(picture("auto", LONG, (("a", 0.8),), seed))
        self.daemon.kill()
        self.comfy.finish(prompt)
        found = self.near(self.comfy.latents("latents/case"), local)
        self.tell("daemon killed for good, auto finishes locally", found)
        self.assertIn("Going on locally", self.comfy.output())
        self.restart_daemon()
        prompt = self.after_some_steps(picture("force_daemon", LONG, seed=next(_seeds)))
        self.daemon.kill()
        with self.assertRaisesRegex(PromptFailed, "Daemon is not running"):
            self.comfy.finish(prompt)
        self.restart_daemon()

    def test_an_interrupt_ends_the_step(self):
        prompt = self.after_some_steps(picture("force_daemon", 2000, seed=next(_seeds)))
        began = time.monotonic()
        self.comfy.post("/interrupt", {})
        with self.assertRaisesRegex(PromptFailed, "interrupted"):
            self.comfy.finish(prompt)
        seconds = time.monotonic() - began
        self.assertLess(seconds, 3.0)
        self.tell("interrupt in the middle of a picture", f"ended after {seconds:.2f} s")
        self.assertEqual(self.daemon.status()["queue"]["depth"], 0)
        self.comfy.run(picture("force_daemon", seed=next(_seeds)))

    def test_gateway_status_and_console(self):
        graph = Graph()
        model, clip, _ = graph.router("force_daemon")
        made = graph.LunaConfigGateway(
            model=model, clip=clip,
            positive_prompt="a house <lora:b:0.8> <lora:text:0.4:0.9> <lora:twice:0.3>",
            negative_prompt="blurry <lora:nothing:1>", clip_skip=-2, seed=7, steps=10, cfg=5.0,
        )  # fmt: skip
        graph.save(graph.KSampler(
            model=made, positive=made.out(2), negative=made.out(3), latent_image=graph.empty(),
            seed=made.out(7), steps=made.out(8), cfg=made.out(9), sampler_name=made.out(10),
            scheduler=made.out(11), denoise=made.out(12),
        ))  # fmt: skip
        found = self.latent(self.comfy, graph.nodes)
        stock = Graph()
        model, clip, _ = stock.checkpoint()
        # Layers of attention: ComfyUI's names of other up blocks fit nets of even depth only.
        for name, strength, for_clip in (("b", 0.8, 0.8), ("text", 0.4, 0.9), ("twice", 0.3, 0.3)):
            model = stock.LoraLoader(
                model=model, clip=clip, lora_name=f"{name}.safetensors", strength_model=strength,
                strength_clip=for_clip,
            )  # fmt: skip
            clip = model.out(1)
        clip = stock.CLIPSetLastLayer(clip=clip, stop_at_clip_layer=-2)
        stock.save(stock.sample(model, stock.prompts(clip, "a house   ", "blurry ")))
        self.tell(
            "Luna Config Gateway beside LoraLoader, clip skip and prompts",
            self.near(found, self.latent(self.alone, stock.nodes)),
        )
        for text in (
            "[LunaConfigGateway] DaemonModel detected - UNet LoRAs via daemon",
            "[LunaConfigGateway] LoRA 'b' → daemon (model=0.8, clip=0.0)",
            "[DaemonModel] Added LoRA 'text.safetensors' (model_str=0.4), stack size: 2",
            "[LunaConfigGateway] Warning: LoRA 'nothing' not found",
        ):
            self.assertIn(text, self.comfy.output())
        graph = Graph()
        graph.LunaDaemonStatus()
        outputs = self.comfy.run(graph.nodes)
        clients = [each.get("pid") for each in self.daemon.status()["sessions"]]
        self.assertIn(self.comfy.pid, clients)
        self.assertIn("checkpoints/sd1.safetensors", outputs["1"]["text"][0])
        outputs = self.alone.run(graph.nodes)
        self.assertIn("Daemon is not running", outputs["1"]["text"][0])

    def test_the_four_routings_and_luna_loaders(self):
        def stack(graph, model, clip):
            made = graph.LunaLoraStack(
                lora_name="text.safetensors", strength_model=0.5, strength_clip=0.9
            )
            made = graph.LunaConfigGateway(
                model=model, clip=clip, positive_prompt="a house", negative_prompt="", lora_stack=made
            )
            return graph.save(graph.sample(made, (made.out(2), made.out(3)))).nodes

        found = {}
        for unet in ("force_daemon", "force_local"):
            for text in ("force_daemon", "force_local"):
                graph = Graph()
                model = graph.LunaUNETLoader(unet_name="sd1-other.safetensors", daemon_mode=unet)
                clip = graph.LunaCLIPLoader(
                    clip_name="clip_l.safetensors", type="stable_diffusion", daemon_mode=text
                )
                seen = len(self.comfy.output())
                found[unet, text] = self.latent(self.comfy, stack(graph, model, clip))
                log = self.comfy.output()[seen:]
                for mode, weights in ((unet, "model=0.5, clip=0.0"), (text, "model=0.0, clip=0.9")):
                    place = mode.removeprefix("force_")
                    self.assertIn(f"LoRA 'text' → {place} ({weights})", log)
        local = found["force_local", "force_local"]
        largest = max(self.near(each, local) for each in found.values())
        self.tell("model and text encoder in the daemon or here, four ways, with a LoRA", largest)

    def test_four_processes_at_once_are_each_as_alone(self):
        stacks = [(), (("a", 0.9),), (("b", 0.7), ("a", -0.3)), (("loha", 0.8),)]
        workflows = [picture("force_daemon", 20, stack, next(_seeds)) for stack in stacks]
        alone = [self.latent(self.comfy, workflow) for workflow in workflows]
        environment = {"LUNA_DAEMON_URL": self.daemon.url}
        crowd = [Comfy(self.folder, f"crowd-{number}", environment) for number in range(4)]
        try:
            prompts = [comfy.queue(workflow) for comfy, workflow in zip(crowd, workflows)]
            found = []
            for comfy, prompt, wanted in zip(crowd, prompts, alone):
                comfy.finish(prompt)
                found.append(self.near(comfy.latents("latents/case"), wanted))
            self.tell("four processes at once, other LoRAs each, beside each alone", max(found))
        finally:
            for comfy in crowd:
                comfy.stop()


if __name__ == "__main__":
    unittest.main()
