"""Trap 9 of ten (test_traps.py): a ModelPatcher's `patches` are not only LoRAs on linear layers."""

import os
import unittest

if not os.environ.get("COMFYUI_PATH"):
    raise unittest.SkipTest("COMFYUI_PATH is not set")

import comfy_process as p  # noqa: E402
import comfy.weight_adapter as formats  # noqa: E402
import torch  # noqa: E402
from comfy_extras.nodes_attention_multiply import attention_multiply  # noqa: E402
from luna_daemon import adapters  # noqa: E402
from luna_daemon.errors import Unsupported  # noqa: E402

KEY = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"


class Trap9Patches(unittest.TestCase):
    def resolve(self, *entries, key=KEY, shape=(320, 320), base=None):
        net = adapters.Net({key: torch.Size(shape)}, lambda key: "unet.layer", lambda key: base)
        return adapters.resolve({key: list(entries)}, [], net)

    def parts(self, *entries, **more):
        """[(strength, part names)] of the sets in their order."""
        return [
            (strength, sorted(name.removeprefix("unet.layer.") for name in make()))
            for found, strength in self.resolve(*entries, **more)
            for _, make in found.parts()
        ]

    def test_a_changed_strength_sends_nothing_again(self):
        base, daemon = p.fake_model()
        lora = p.small_lora()
        for strength in (0.8, 0.3):
            p.sample(p.with_lora(base, lora, strength), steps=1)
        one, other = (run.loras[0][0].parts() for run in daemon.runs)
        self.assertEqual([spec for spec, _ in one], [spec for spec, _ in other])
        self.assertEqual(daemon.strengths(), [[0.8], [0.3]])

    def test_two_files_are_two_sets_whatever_their_strengths(self):
        base, daemon = p.fake_model()
        model = p.with_lora(p.with_lora(base, p.small_lora(1), 0.5), p.small_lora(2), 0.5)
        p.sample(model, steps=1)
        self.assertEqual(daemon.strengths(), [[0.5, 0.5]])

    def adapter(self, dora=None):
        random = torch.randn
        return formats.LoRAAdapter(set(), (random(320, 4), random(4, 320), 1.0, None, dora, None))

    def test_order_and_parts(self):
        row, column = self.adapter(torch.rand(320, 1)), self.adapter(torch.rand(1, 320))
        found = self.parts(
            (0.5, self.adapter(), 1.0, None, None),
            (0.7, row, 1.0, None, None),
            (0.0, (None,), 0.9, None, None),
            (0.2, column, 1.0, None, None),
            (0.0, self.adapter(), 1.0, None, None),
            (0.3, ("diff", (torch.randn(320, 320),)), 1.0, None, None),
            (0.4, ("set", (torch.randn(320, 320),)), 1.0, None, None),
        )
        self.assertEqual(
            found,
            [
                (0.5, ["down", "up"]), (0.7, ["dora_row", "down", "up"]), (1.0, ["multiply"]),
                (0.2, ["dora_column", "down", "up"]), (0.3, ["diff"]), (1.0, ["set"]),
            ],
        )  # fmt: skip

    def test_vectors(self):
        bias = {"key": KEY.replace("weight", "bias"), "shape": (4,), "base": torch.arange(4.0)}
        difference = (0.5, ("diff", (torch.ones(4),)), 1.0, None, None)
        self.assertEqual(self.parts(difference, **bias), [(0.5, ["bias"])])
        ((found, strength),) = self.resolve((0.0, (None,), 2.0, None, None), difference, **bias)
        ((_, make),) = found.parts()
        self.assertEqual(
            (strength, make()["unet.layer.bias"].tolist()), (1.0, [0.5, 1.5, 2.5, 3.5])
        )
        self.assertEqual(self.parts(difference, **{**bias, "key": KEY}), [(0.5, ["gain"])])

    def test_what_the_daemon_cannot_do_is_named(self):
        random = torch.randn
        for entry, text in (
            ((1.0, ("other", (random(1),)), 1.0, None, None), "other on .*to_q"),
            ((1.0, ("model_as_lora", (random(320, 320),)), 1.0, None, None), "model as LoRA"),
            ((1.0, [(random(320, 320), None)], 0.5, None, None), "merge of models"),
            ((1.0, self.adapter(), 1.0, (0, 0, 4), None), "part of"),
            ((1.0, formats.BOFTAdapter(set(), (random(2, 40, 8, 8), random(320, 1), 0.0, None)), 1.0, None, None), "rescale"),
        ):  # fmt: skip
            with self.assertRaisesRegex(Unsupported, f"{text}.*use force_local for this branch"):
                self.parts(entry)

    def test_attention_multiply_takes_the_bias_from_the_file(self):
        base, daemon = p.fake_model()
        p.sample(attention_multiply("attn1", base, 0.5, 1, 1, 0.8), steps=1)
        (found, strength), *_ = daemon.runs[0].loras
        made = {name: each for _, make in found.parts() for name, each in make().items()}
        self.assertEqual(strength, 1.0)
        layer = "unet.input_blocks.1.1.transformer_blocks.0.attn1"
        self.assertAlmostEqual(made[f"{layer}.to_q.multiply"].item(), 0.5)
        every = {
            n: e
            for f, _ in daemon.runs[0].loras
            for _, make in f.parts()
            for n, e in make().items()
        }
        self.assertLess(every[f"{layer}.to_out.0.bias"].abs().max().item(), 0.1)
        self.assertGreater(every[f"{layer}.to_out.0.bias"].abs().max().item(), 0.0)

    def test_an_adapter_of_a_wrong_shape_is_left_out_as_comfyui_does(self):
        wrong = formats.LoRAAdapter(
            set(), (torch.randn(320, 4), torch.randn(4, 9), None, None, None, None)
        )
        with self.assertLogs(level="ERROR"):
            self.assertEqual(self.resolve((1.0, wrong, 1.0, None, None)), [])


if __name__ == "__main__":
    unittest.main()
