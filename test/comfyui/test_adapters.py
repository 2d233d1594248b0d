"""Every adapter format as parts: what docs/protocol.md says the daemon makes of them (written out
below) against ComfyUI's own `calculate_weight`."""

import os
import unittest

if not os.environ.get("COMFYUI_PATH"):
    raise unittest.SkipTest("COMFYUI_PATH is not set")

import comfy_process  # noqa: E402, F401
import comfy.lora  # noqa: E402
import comfy.weight_adapter as formats  # noqa: E402
import torch  # noqa: E402
from luna_daemon import adapters  # noqa: E402

KEY = "net.layer.weight"


def cayley(blocks):
    skew = blocks - blocks.transpose(-1, -2)
    one = torch.eye(blocks.shape[-1])
    return (one + skew) @ (one - skew).inverse()


def butterfly(weight, blocks, strength):
    """BOFT: each stage turns blocks of rows that lie further apart than in the one before."""
    turned, size = weight, blocks.shape[-1]
    for stage, each in enumerate(cayley(blocks)):
        each = each * strength + (1 - strength) * torch.eye(size)
        apart = 2**stage * (size // 2)
        turned = turned.unflatten(0, (-1, 2, apart)).transpose(1, 2).flatten(0, 2)
        turned = torch.einsum("bij,bj...->bi...", each, turned.unflatten(0, (-1, size)))
        turned = turned.flatten(0, 1).unflatten(0, (-1, apart, 2)).transpose(1, 2).flatten(0, 2)
    return turned


def applied(weight, strength, parts):
    """The page's table of parts, for one layer."""
    if "multiply" in parts:
        weight = weight * parts["multiply"].item()
    if "set" in parts:
        return parts["set"]
    shape, epsilon = weight.shape, torch.finfo(weight.dtype).eps
    delta = torch.zeros_like(weight)
    if "up" in parts:
        delta = delta + (parts["up"].float().t() @ parts["down"].float()).reshape(shape)
    if "a1" in parts:
        delta = delta + torch.einsum("oi...,ir,rj->oj...", weight, parts["a1"], parts["a2"])
    if "diff" in parts:
        delta = delta + parts["diff"]
    if "oft" in parts:
        count, size, _ = parts["oft"].shape
        turn = cayley(parts["oft"]) - torch.eye(size)
        rows = weight.view(count, size, *shape[1:])
        delta = strength * torch.einsum("knm,kn...->km...", turn, rows).reshape(shape)
    if "boft" in parts:
        delta = butterfly(weight, parts["boft"], strength) - weight
    if "dora_factor" in parts:
        delta = delta * parts["dora_factor"].item()
    if "dora_row" in parts:
        norms = weight.flatten(1).norm(dim=1) + epsilon
        scale = (parts["dora_row"] / norms).reshape(-1, *[1] * (weight.ndim - 1))
        return weight + strength * (scale * (weight + delta) - weight)
    if "dora_column" in parts:
        norms = (weight + delta).transpose(0, 1).flatten(1).norm(dim=1) + epsilon
        scale = (parts["dora_column"] / norms).reshape(1, -1, *[1] * (weight.ndim - 2))
        return weight + strength * (scale * (weight + delta) - weight)
    return weight + strength * delta


def entry(value, strength=0.7, multiply=1.0):
    return (strength, value, multiply, None, None)


class Formats(unittest.TestCase):
    def setUp(self):
        torch.manual_seed(1)
        self.linear, self.conv = torch.randn(16, 8), torch.randn(16, 8, 3, 3)

    def agrees(self, weight, *entries):
        wanted = comfy.lora.calculate_weight(list(entries), weight.clone(), KEY)
        net = adapters.Net({KEY: weight.shape}, lambda key: "layer", lambda key: weight)
        found = weight
        for each, strength in adapters.resolve({KEY: list(entries)}, [], net):
            for _, make in each.parts():
                parts = {name.rsplit(".", 1)[1]: tensor for name, tensor in make().items()}
                found = applied(found, strength, parts)
        self.assertGreater((wanted - weight).abs().max().item(), 0.01)
        self.assertLess((found - wanted).abs().max().item(), 2e-5)

    def lora(self, dora=None, rank=3, alpha=1.0):
        weights = (torch.randn(16, rank), torch.randn(rank, 8), alpha, None, dora, None)
        return formats.LoRAAdapter(set(), weights)

    def test_lora_and_dora(self):
        for dora in (None, torch.rand(16, 1) + 0.5, torch.rand(1, 8) + 0.5):
            self.agrees(self.linear, entry(self.lora(dora)))

    def test_convolutions(self):
        r = torch.randn
        for dora in (None, torch.rand(16, 1, 1, 1) + 0.5, torch.rand(1, 8, 1, 1) + 0.5):
            self.agrees(self.conv, entry(formats.LoRAAdapter(
                set(), (r(16, 3, 1, 1), r(3, 8, 3, 3), 2.0, None, dora, None)
            )))  # fmt: skip
        self.agrees(self.conv, entry(formats.LoRAAdapter(
            set(), (r(16, 4, 1, 1), r(4, 8, 1, 1), 2.0, r(4, 4, 3, 3), None, None)
        )))  # fmt: skip

    def test_loha(self):
        r = torch.randn
        for weight, weights in (
            (self.linear, (r(16, 2), r(2, 8), 1.0, r(16, 3), r(3, 8), None, None, None)),
            (
                self.linear,
                (r(16, 2), r(2, 8), 1.0, r(16, 3), r(3, 8), None, None, torch.rand(16, 1)),
            ),
            (self.conv, (r(16, 2), r(2, 72), 1.0, r(16, 3), r(3, 72), None, None, None)),
            (
                self.conv,
                (r(2, 16), r(2, 8), 1.0, r(2, 16), r(2, 8), r(2, 2, 3, 3), r(2, 2, 3, 3), None),
            ),
        ):
            self.agrees(weight, entry(formats.LoHaAdapter(set(), weights)))

    def test_lokr(self):
        r, none = torch.randn, None
        for weight, weights in (
            (self.linear, (r(4, 2), none, 1.0, none, none, r(4, 2), r(2, 4), none, none)),
            (self.linear, (none, none, 1.0, r(4, 1), r(1, 2), r(4, 2), r(2, 4), none, none)),
            (self.linear, (none, r(4, 4), 1.0, r(4, 1), r(1, 2), none, none, none, none)),
            (self.linear, (r(4, 2), r(4, 4), 1.0, *[none] * 6)),
            (self.conv, (r(4, 2), none, 1.0, none, none, r(4, 2), r(2, 36), none, none)),
            (self.conv, (none, r(4, 4, 3, 3), 1.0, r(4, 1), r(1, 2), none, none, none, none)),
            (self.conv, (r(4, 2), r(4, 4, 3, 3), 1.0, *[none] * 6)),
            (self.linear, (r(4, 2), r(4, 4), 1.0, *[none] * 5, torch.rand(16, 1) + 0.5)),
            (self.conv, (r(4, 2), r(4, 4, 3, 3), 1.0, *[none] * 5, torch.rand(1, 8, 1, 1) + 0.5)),
        ):
            self.agrees(weight, entry(formats.LoKrAdapter(set(), weights)))

    def test_glora(self):
        r, square = torch.randn, torch.randn(16, 16)
        for weight, weights in (
            (self.linear, (r(8, 2), r(2, 8), r(16, 2), r(2, 8), 1.0, None)),
            (self.linear, (r(8, 2), r(2, 8), r(16, 2), r(2, 8), 1.0, torch.rand(16, 1) + 0.5)),
            (self.conv, (r(8, 2), r(2, 8), r(16, 2, 1, 1), r(2, 8, 3, 3), 1.0, None)),
            (square, (r(2, 16), r(16, 2), r(2, 16), r(16, 2), 1.0, None)),
        ):
            self.agrees(weight, entry(formats.GLoRAAdapter(set(), weights)))

    def test_oft_and_boft(self):
        r = torch.randn
        for alpha in (None, 0.5):
            oft = formats.OFTAdapter(set(), (r(4, 4, 4) * 0.1, torch.ones(16, 1) * 5, alpha, None))
            self.agrees(self.linear, entry(oft))
        for alpha in (0.0, 0.3):
            boft = formats.BOFTAdapter(set(), (r(2, 4, 4, 4) * 0.1, None, alpha, None))
            self.agrees(self.linear, entry(boft))

    def test_oft_and_boft_with_dora(self):
        r = torch.randn
        for dora in (torch.rand(16, 1) + 0.5, torch.rand(1, 8) + 0.5):
            for alpha in (0.0, 0.3):
                oft = formats.OFTAdapter(set(), (r(4, 4, 4) * 0.1, None, alpha, dora))
                self.agrees(self.linear, entry(oft))
                boft = formats.BOFTAdapter(set(), (r(2, 4, 4, 4) * 0.1, None, alpha, dora))
                self.agrees(self.linear, entry(self.lora(), 0.5), entry(boft))

    def test_whole_weights(self):
        for value in (
            ("diff", (torch.randn(16, 8),)),
            (torch.randn(16, 8),),
            ("set", (torch.randn(16, 8),)),
        ):
            self.agrees(self.linear, entry(value))
        self.agrees(self.linear, entry((None,), 0.0, 0.5))

    def test_many_on_one_weight_in_their_order(self):
        self.agrees(
            self.linear,
            entry(self.lora(), 0.8),
            entry(self.lora(torch.rand(16, 1) + 0.5), 0.6),
            entry((None,), 0.0, 0.5),
            entry(self.lora(), -0.3),
            entry(self.lora(torch.rand(1, 8) + 0.5), 0.7, 0.9),
            entry(self.lora(), 0.8),
            entry(("diff", (torch.randn(16, 8),)), 0.2),
        )


if __name__ == "__main__":
    unittest.main()
