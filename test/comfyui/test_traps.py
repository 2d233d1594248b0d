"""The ten traps of putting a ComfyUI MODEL somewhere else, each closed. A fake daemon answers, so
that only the plumbing is tested; the pictures are compared by test_matrix.py."""

import os
import unittest

if not os.environ.get("COMFYUI_PATH"):
    raise unittest.SkipTest("COMFYUI_PATH is not set")

import comfy_process as p  # noqa: E402
import comfy.controlnet  # noqa: E402
import comfy.hooks  # noqa: E402
import comfy.model_base  # noqa: E402
import comfy.model_management  # noqa: E402
import comfy.model_sampling  # noqa: E402
import comfy.patcher_extension  # noqa: E402
import comfy.sd  # noqa: E402
import torch  # noqa: E402
from comfy_extras.nodes_easycache import EasyCacheNode  # noqa: E402
from comfy_extras.nodes_freelunch import FreeU, FreeU_V2  # noqa: E402
from comfy_extras.nodes_model_advanced import (  # noqa: E402
    ModelSamplingContinuousEDM,
    ModelSamplingDiscrete,
)
from comfy_extras.nodes_pag import PerturbedAttentionGuidance  # noqa: E402
from comfy_extras.nodes_sag import SelfAttentionGuidance  # noqa: E402
from luna_daemon.errors import LunaError, Unsupported  # noqa: E402
from luna_daemon.guarded import WeightElsewhere  # noqa: E402

KEY = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"


class Trap1ObjectPatches(unittest.TestCase):
    def test_a_clone_with_another_sampling_leaves_the_base_alone(self):
        base, daemon = p.fake_model()
        other = ModelSamplingDiscrete().patch(base, "v_prediction", True)[0]
        seen = []
        daemon.answer = lambda run: (
            seen.append(isinstance(base.model.model_sampling, comfy.model_sampling.V_PREDICTION)),
            run.own["x"] * 0.1,
        )[1]
        for model in (base, other, base, other.clone(), base.clone()):
            p.sample(model)
        self.assertEqual(seen[::2], [False, True, False, True, False])


class Trap2Silence(unittest.TestCase):
    def test_what_changes_the_inside_is_refused_by_name_before_the_first_step(self):
        base, daemon = p.fake_model()
        with self.assertRaisesRegex(Unsupported, "SelfAttentionGuidance.*use force_local for this"):
            p.sample(SelfAttentionGuidance.execute(base, 0.5, 2.0).args[0])
        model = base.clone()
        model.set_model_attn2_patch(lambda q, k, v, options: (q, k, v))
        with self.assertRaisesRegex(Unsupported, "test_traps.Trap2Silence.*lambda"):
            p.sample(model)
        self.assertEqual(daemon.runs, [])

    def test_what_is_added_during_a_step_is_refused_then(self):
        base, daemon = p.fake_model()
        model = base.clone()

        def wrapper(apply, given):
            options = {**given["c"]["transformer_options"], "patches": {"attn1_patch": [print]}}
            given["c"]["transformer_options"] = options
            return apply(given["input"], given["timestep"], **given["c"])

        model.set_model_unet_function_wrapper(wrapper)
        with self.assertRaisesRegex(Unsupported, "print acts inside the UNet"):
            p.sample(model)

    def test_what_the_daemon_does_itself_is_read_from_the_nodes(self):
        base, daemon = p.fake_model()
        p.sample(FreeU_V2.execute(base, 1.3, 1.4, 0.9, 0.2).args[0], steps=1)
        freeu = {"version": 2, "b1": 1.3, "b2": 1.4, "s1": 0.9, "s2": 0.2}
        self.assertEqual(daemon.runs[0].fields["features"], {"freeu": freeu})
        p.sample(FreeU.execute(base, 1.3, 1.4, 0.9, 0.2).args[0], steps=1)
        self.assertEqual(daemon.runs[1].fields["features"]["freeu"]["version"], 1)
        daemon.runs.clear()
        p.sample(PerturbedAttentionGuidance.execute(base, 3.0).args[0], steps=1)
        found = [run.fields.get("features") for run in daemon.runs]
        self.assertEqual(found, [None, {"pag": {"blocks": ["middle.0"]}}])

    def test_what_a_unet_ignores_is_ignored(self):
        base, daemon = p.fake_model()
        model = base.clone()
        model.set_model_patch(lambda *_: None, "double_block")
        model.set_model_patch_replace(lambda *_: None, "dit", "double_block", 1)
        p.sample(model)
        self.assertEqual(len(daemon.runs), 2)

    def test_parts_of_the_net_that_are_replaced_are_refused(self):
        base, _ = p.fake_model()
        model = base.clone()
        model.add_object_patch("diffusion_model.out", torch.nn.Identity())
        with self.assertRaisesRegex(Unsupported, "replaces diffusion_model.out"):
            p.sample(model)

    def test_modules_put_into_the_net_are_refused(self):
        base, _ = p.fake_model()
        # As packs for videos do, while the model is loaded.
        net = base.model.diffusion_model
        model = base.clone()
        model.set_injections("motion", [comfy.patcher_extension.PatcherInjection(
            lambda patcher: net.input_blocks[1].append(torch.nn.Identity()),
            lambda patcher: net.input_blocks[1].__delitem__(-1),
        )])  # fmt: skip
        with self.assertRaisesRegex(Unsupported, "puts .*Identity into the net at input_blocks.1.2"):
            p.sample(model)
        p.sample(base)

    def test_bypass_loras_are_sent_with_their_strength(self):
        base, daemon = p.fake_model()
        bypass, _ = comfy.sd.load_bypass_lora_for_models(base, None, p.small_lora(), 0.8, 0)
        p.sample(bypass)
        p.sample(base)
        self.assertEqual(daemon.strengths(), [[0.8], [0.8], [], []])

    def test_training_is_refused(self):
        base, _ = p.fake_model()
        net = base.model.diffusion_model
        with torch.enable_grad(), self.assertRaisesRegex(Unsupported, "Training"):
            net(torch.zeros(1, 4, 8, 8, requires_grad=True), torch.ones(1), torch.zeros(1, 77, 768))


class Trap3Wrappers(unittest.TestCase):
    def test_wrappers_around_the_net_run(self):
        base, daemon = p.fake_model()
        model, seen = base.clone(), []
        model.add_wrapper_with_key(
            comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, "t",
            lambda execute, *args, **more: (seen.append(1), execute(*args, **more))[1],
        )  # fmt: skip
        p.sample(model)
        self.assertEqual(len(seen), 2)

    def test_easy_cache_saves_steps(self):
        base, daemon = p.fake_model()
        p.sample(EasyCacheNode.execute(base, 5.0, 0.0, 1.0, False).args[0], steps=8)
        self.assertLess(len(daemon.runs), 8)

    def test_torch_compile_is_left_out(self):
        base, _ = p.fake_model()
        model = base.clone()
        model.add_wrapper_with_key("apply_model", "torch.compile", lambda *_: None)
        p.sample(model)


class Trap4Weights(unittest.TestCase):
    def test_every_use_of_a_weight_says_where_it_is(self):
        net = p.fake_model()[0].model.diffusion_model
        block = net.input_blocks[1][1].transformer_blocks[0]
        for use in (
            lambda: net.input_blocks[0][0](torch.zeros(1, 4, 8, 8)),
            lambda: block.attn1.to_q(torch.zeros(1, 4, 320)),
            lambda: block.norm1(torch.zeros(1, 4, 320)),
            lambda: net.out[2].weight.cpu(),
            lambda: net.out[2].weight.half(),
            lambda: net.out[2].weight + 1,
        ):
            with self.assertRaisesRegex(WeightElsewhere, "weights live in the daemon"):
                use()

    def test_what_only_looks_still_works(self):
        model = p.fake_model()[0]
        weight = model.model.state_dict()[KEY]
        self.assertEqual((tuple(weight.shape), weight.dtype), ((320, 320), torch.float32))
        comfy.model_management.unload_all_models()

    def test_a_control_lora_gets_the_weights_from_the_file(self):
        net = p.fake_model()[0].model.diffusion_model
        weight = net.state_dict()["out.2.weight"]
        self.assertEqual(weight.device.type, "cpu")
        self.assertGreater(weight.abs().max().item(), 0)

    def test_saving_is_refused_or_local(self):
        forced, _ = p.fake_model()
        with self.assertRaisesRegex(Unsupported, "reads the weights"):
            forced.get_key_patches()
        free, _ = p.fake_model("auto")
        found = free.get_key_patches("diffusion_model.out.2.weight")
        (weight, _), *_ = found["diffusion_model.out.2.weight"]
        self.assertEqual(weight.device.type, "cpu")
        saved = p.with_lora(free, p.small_lora(), 0.5).state_dict_for_saving()
        plain = free.model.diffusion_model.state_dict()
        name = KEY.removeprefix("diffusion_model.")
        prefix = "model.diffusion_model."
        self.assertTrue(
            torch.equal(saved[f"{prefix}out.2.weight"].to("cpu"), plain["out.2.weight"])
        )
        self.assertFalse(torch.equal(saved[prefix + name].to("cpu"), plain[name]))


class Trap5Device(unittest.TestCase):
    def test_it_is_loaded_where_comfyui_computes(self):
        model, _ = p.fake_model()
        self.assertEqual(model.load_device, comfy.model_management.get_torch_device())


    def test_a_half_model_on_a_device_has_half_the_bytes_on_the_wire(self):
        daemon = p.FakeDaemon()
        for device, dtype in (("cuda", torch.float16), ("cpu", torch.float32)):
            status = {"status": {"engine": {"device": device}}}
            daemon.call = lambda op, status=status, **fields: status
            served = p.Served(daemon, {**p.INFO, "dtype": "F16"}, "force_daemon")
            p.sample(p.model_from_checkpoint(p.path_of("sd1"), served))
            self.assertEqual(daemon.runs[-1].own["x"].dtype, dtype)
            self.assertEqual(daemon.runs[-1].shared["context"].dtype, dtype)
            self.assertEqual(daemon.runs[-1].own["timesteps"].dtype, torch.float32)


class Trap6ModelType(unittest.TestCase):
    def test_v_prediction_and_zsnr_come_from_root_keys(self):
        plain, _ = p.fake_model(name="sdxl")
        other, _ = p.fake_model(name="sdxl-v")
        types = comfy.model_base.ModelType
        self.assertEqual(plain.model.model_type, types.EPS)
        self.assertEqual(other.model.model_type, types.V_PREDICTION)
        self.assertTrue(other.model.model_sampling.zsnr)

    def test_inpainting_comes_from_the_channels(self):
        model, _ = p.fake_model(name="sd1-inpaint")
        self.assertEqual(model.model.concat_keys, ("mask", "masked_image"))


class Trap7Memory(unittest.TestCase):
    def test_nothing_is_here_to_be_counted(self):
        model, _ = p.fake_model()
        self.assertEqual((model.model_size(), model.loaded_size()), (1, 1))
        self.assertEqual(model.model_mmap_residency(), (0, 0))
        self.assertEqual(model.memory_required([2, 4, 64, 64]), 0)
        self.assertEqual(model.model.memory_required([2, 4, 64, 64]), 0)
        self.assertLess(model.get_free_memory(None), float("inf"))
        self.assertEqual(model.clone().model_size(), 1)


class Trap8Hooks(unittest.TestCase):
    def hooked(self, hook):
        return comfy.hooks.set_hooks_for_conditioning(p.cond(), hook)

    def test_one_group_two_groups_and_keyframes(self):
        base, daemon = p.fake_model()
        hook = comfy.hooks.create_hook_lora(p.small_lora(), 1.0, 1.0)
        p.sample(base, positive=self.hooked(hook), negative=self.hooked(hook))
        self.assertEqual(daemon.strengths(), [[1.0], [1.0]])
        daemon.runs.clear()
        other = p.with_lora(base, p.small_lora(2), 0.3)
        p.sample(other, steps=1, positive=self.hooked(hook))
        self.assertEqual(sorted(map(sorted, daemon.strengths())), [[0.3], [0.3, 1.0]])
        daemon.runs.clear()
        frames = comfy.hooks.HookKeyframeGroup()
        frames.add(comfy.hooks.HookKeyframe(0.2, 0.0))
        frames.add(comfy.hooks.HookKeyframe(0.9, 0.5))
        timed = hook.clone()
        timed.set_keyframes_on_hooks(frames)
        p.sample(base, steps=4, positive=self.hooked(timed), negative=self.hooked(timed))
        self.assertEqual(daemon.strengths(), [[0.2], [0.2], [0.9], [0.9]])
        daemon.runs.clear()
        p.sample(base)
        self.assertEqual(daemon.strengths(), [[], []])


class Trap10ShapesAndTimes(unittest.TestCase):
    def test_fractional_and_negative_timesteps(self):
        base, daemon = p.fake_model()
        p.sample(ModelSamplingContinuousEDM().patch(base, "v_prediction", 120.0, 0.002)[0])
        first, last = (run.own["timesteps"][0].item() for run in daemon.runs)
        self.assertAlmostEqual(first, 1.197, places=3)
        self.assertLess(last, 0)

    def test_odd_sizes_and_long_contexts(self):
        base, daemon = p.fake_model()
        area = p.cond(area=("percentage", 0.53, 0.37, 0.1, 0.2), strength=1.0)
        p.sample(base, steps=1, side=33, positive=p.cond(154) + area)
        shapes = {
            (tuple(run.own["x"].shape[2:]), run.shared["context"].shape[1]) for run in daemon.runs
        }
        self.assertIn(((33, 33), 154), shapes)
        self.assertIn(((17, 12), 77), shapes)

    def test_residuals_at_their_places(self):
        net = p.fake_model()[0].model.diffusion_model
        from luna_daemon.control import control_tensors, skip_shapes

        shapes = skip_shapes(net, 9, 7)
        self.assertEqual(shapes[0], [(320, 9, 7)] * 3 + [(320, 5, 4)] * 2)
        number = lambda n, shape: torch.full((1, *shape), float(n))  # noqa: E731
        control = {
            "input": [number(2, (320, 9, 7)), None, number(0, (320, 9, 7))],
            "middle": [None, number(5, (320, 5, 4))],
            "output": [number(n, shape) for n, shape in enumerate(shapes[0])],
        }
        found = control_tensors(control, shapes, 1)
        self.assertEqual(
            {name: each.flatten()[0].item() for name, each in found.items()},
            {
                "control.input.0": 0.0, "control.input.2": 2.0, "control.middle.0": 5.0,
                **{f"control.output.{n}": float(n) for n in range(5)},
            },
        )  # fmt: skip
        self.assertEqual(len(control["output"]), 5)
        with self.assertLogs(level="WARNING"):
            self.assertEqual(control_tensors({"middle": [torch.ones(1, 7, 5, 4)]}, shapes, 1), {})

    def test_a_controls_residuals_are_sent(self):
        base, daemon = p.fake_model()

        class Control(comfy.controlnet.ControlBase):
            def get_control(self, x, t, cond, batched, options):
                made = {
                    "middle": [torch.ones(x.shape[0], 320, 4, 4)],
                    "output": [torch.ones(1)] * 5,
                }
                return self.control_merge(made, None, None)

            def copy(self):
                copy = Control()
                self.copy_to(copy)
                return copy

        p.sample(base, steps=1, positive=p.cond(control=Control(), control_apply_to_uncond=True))
        names = set().union(*(run.control for run in daemon.runs))
        self.assertEqual(names, {"control.middle.0", *(f"control.output.{n}" for n in range(5))})

    def test_more_rows_than_one_request_takes(self):
        base, daemon = p.fake_model()
        x = torch.randn(70, 4, 8, 8)
        base.pre_run()
        with torch.inference_mode():
            out = base.model.diffusion_model(x, torch.ones(70), torch.randn(70, 77, 768))
        self.assertTrue(torch.equal(out, x * 0.1))
        self.assertEqual([len(run.own["x"]) for run in daemon.runs], [64, 6])

    def test_out_of_memory_is_comfyuis(self):
        base, daemon = p.fake_model()

        def fail(run):
            raise LunaError("MEMORY_EXCEEDED", "The model does not fit.")

        daemon.answer = fail
        with self.assertRaises(comfy.model_management.OOM_EXCEPTION):
            p.sample(base)

    def test_no_daemon_in_force_daemon_is_the_error_people_know(self):
        base, daemon = p.fake_model()

        def fail(run):
            raise LunaError("CONNECTION_LOST", "gone")

        daemon.answer = fail
        with self.assertRaisesRegex(
            RuntimeError, r"Daemon is not running. Start it with: npx luna serve"
        ):
            p.sample(base)


if __name__ == "__main__":
    unittest.main()
