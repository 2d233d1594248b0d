"""Goldens of src/text from ComfyUI itself: tokens of many prompts and encodings by a fake encoder.

Run: COMFYUI_PATH=... python test/reference/text.py   (needs torch and transformers; not part of npm test)
The text encoder is a closed formula (fake_transformer below; the test has the same), so that what
is compared is everything around it: rows, weights, layers, norms, pooled outputs, padding.
"""
import json
import os
import random
import sys
from pathlib import Path

sys.path.insert(0, os.environ["COMFYUI_PATH"])
sys.argv = ["x", "--cpu"]
import comfy.options

comfy.options.enable_args_parsing()
import torch
import comfy.sd1_clip as sd1
import comfy.sdxl_clip as sdxl
import comfy.text_encoders.sd2_clip as sd2
from comfy.model_base import SDXL, SDXLRefiner
from comfy.ldm.modules.diffusionmodules.openaimodel import Timestep

GOLDENS = Path(__file__).parent.parent / "fixtures" / "goldens"
WIDTH = 4

PROMPTS = [
    "", " ", "rocket", "a photo of a cat", "Red   Apple,\n\tgreen LEAF", "it's I'm you'll they've we'd",
    "12345 3.14 1,000", "don’t “quote” — dash…", "&amp; &lt;b&gt; html", "émile é İstanbul ΣΑΣ ß ﬁ ＡＢＣ",
    "日本語のテキスト 한국어 العربية हिन्दी", "🚀🍎🐙 🎂👩‍🚀 🏳️‍🌈", "a\u0085b\u00a0c\u2003d\ufeffe\u200bf", "x" * 300,
    "(a cat:1.2)", "((a)) (((b)))", "[low] {curly}", "(a:1.2) b (c (d:0.5) e)", "\\(plain\\) (weighted \\(inner\\):1.3)",
    "(unclosed", "closed)", ")(", "a ) (b) (", "(a:)", "(a:x)", "(:1.5)", "(a:1e1)", "(a: 1.5 )", "(a:1_0)", "(a:-0.5)", "()", "(a:b:1.1)",
    "(a:.5)(b:2.)", "<|endoftext|> mid <|startoftext|> <|ENDOFTEXT|>", "a <lora:x:0.8> b", "under_score-and/slash\\back",
    " ".join(f"word{i}" for i in range(60)), ", ".join(["masterpiece, best quality"] * 20),
    "supercalifragilisticexpialidocious " * 12, " ".join(["a"] * 75), " ".join(["a"] * 76), " ".join(["a"] * 74) + " tyrannosaurus",
    "(" + " ".join(["cat"] * 80) + ":1.4) dog", "embedding:two", "a embedding:two b", "a embedding:two, b", "embedding:none x", "embedding:none",
    "embedding:none, x", "a\nembedding:two", "(embedding:two:1.3) c", "embedding:two embedding:two", "aembedding:two", "embedding:wide z",
    "ok embedding:wide tail", " ".join(["a"] * 74) + " embedding:two", "it’s 5 o'clock!!! :-) ;) <3 ... ???", "C++ C# .NET f(x)=x^2", "naïve café coöperate",
    "Ⅷ ½ ² ① ٣ 三", "\u0000 null", "a\\", "\\(", "(a\\:1.2)", "tab\ttab", "ŀ ǆ ﷺ ẞ", "e\u0301e\u0301 n\u0303",
]
ALPHABET = "abc XYZ 019 ()():.,'\\_-!é日🚀\n"


def prompts():
    rng = random.Random(7)
    words = ["".join(rng.choice("abcdefghijklmnopqrstuvwxyzé") for _ in range(200)) for _ in range(10)]
    return PROMPTS + words + ["".join(rng.choice(ALPHABET) for _ in range(rng.randrange(1, 60))) for _ in range(150)]


def fake_embedding(name, directory, size, key=None):
    """Vectors that the test builds the same way; "wide" has a width no encoder has."""
    if name == "two":
        return torch.tensor([[0.5 - 0.1 * (r * WIDTH + c) for c in range(WIDTH)] for r in range(2)])
    if name == "wide":
        return torch.ones(3, WIDTH + 1)
    return None


sd1.load_embed = fake_embedding


class FakeTransformer(torch.nn.Module):
    """Layer L of n, token column t, channel c: sin(e + 0.05 t + 0.3 L + 0.01 c), e = sin(0.37 id + c)."""

    def __init__(self, config, dtype, device, operations):
        super().__init__()
        self.num_layers = config["num_hidden_layers"]
        self.weight = torch.zeros(1)

    def get_input_embeddings(self):
        return self

    def forward(self, *args, **kwargs):
        if "embeds" in kwargs:
            return self.run(**kwargs)
        ids = args[0].double()
        return torch.sin(0.37 * ids[..., None] + torch.arange(WIDTH)).float()

    def run(self, embeds, num_tokens, intermediate_output, final_layer_norm_intermediate, **_):
        base = embeds.double() + 0.05 * torch.arange(embeds.shape[1])[None, :, None] + 0.01 * torch.arange(WIDTH)
        layer = lambda number: torch.sin(base + 0.3 * number).float()
        norm = lambda x: x * 0.5 + 0.25
        last = norm(layer(self.num_layers))
        middle = None
        if intermediate_output is not None:
            middle = layer(self.num_layers + intermediate_output + 1)
            if final_layer_norm_intermediate:
                middle = norm(middle)
        pooled = last[list(range(last.shape[0])), [n - 1 for n in num_tokens]]
        return last, middle, pooled * 2 - 0.125, pooled


def use_fake():
    import comfy.clip_model

    real = comfy.clip_model.CLIPTextModel
    init = sd1.SDClipModel.__init__
    init.__defaults__ = tuple(FakeTransformer if d is real else d for d in init.__defaults__)


def compact(rows, pad):
    """[token, weight] pairs with the padding cut; vectors become their first value as a string."""
    result = []
    for row in rows:
        assert len(row) == 77
        row = [[t if isinstance(t, int) else f"v{t.flatten()[0].item():.4f}x{t.numel()}", w] for t, w in row]
        while row[-1] == [pad, 1.0]:
            row.pop()
        result.append([[t for t, _ in row], [] if all(w == 1 for _, w in row) else [w for _, w in row]])
    return result


def tokens_golden():
    tokenizer = sdxl.SDXLTokenizer(embedding_directory=["x"])
    cases = []
    for text in prompts():
        tokens = tokenizer.tokenize_with_weights(text)
        cases.append({"text": text, "l": compact(tokens["l"], 49407), "g": compact(tokens["g"], 0)})
    return cases


def numbers(tensor):
    return [round(v, 7) for v in tensor.flatten().tolist()]


ENCODED = ["", "a cat", "(red:1.3) apple (green:0.6)", " ".join(["(big:1.2) dog"] * 45), "a embedding:two (b:1.5)", "x embedding:wide (y:0.7)"]
MODELS = {
    "sd1": (lambda: sd1.SD1Tokenizer(embedding_directory=["x"]), lambda: sd1.SD1ClipModel()),
    "sd2": (lambda: sd2.SD2Tokenizer(embedding_directory=["x"]), lambda: sd2.SD2ClipModel()),
    "sdxl": (lambda: sdxl.SDXLTokenizer(embedding_directory=["x"]), lambda: sdxl.SDXLClipModel()),
    "refiner": (
        lambda: sd1.SD1Tokenizer(embedding_directory=["x"], clip_name="g", tokenizer=sdxl.SDXLClipGTokenizer),
        lambda: sdxl.SDXLRefinerClipModel(),
    ),
}


def encodings_golden():
    cases = []
    for name, (make_tokenizer, make_model) in MODELS.items():
        tokenizer, model = make_tokenizer(), make_model()
        for layer in [None, -1, -2, -5, -24]:
            for text in ENCODED if layer is None else ENCODED[2:3]:
                model.reset_clip_options()
                if layer is not None:
                    model.set_clip_options({"layer": layer})
                context, pooled = model.encode_token_weights(tokenizer.tokenize_with_weights(text))
                flat = context.flatten()
                # Some 150 values of a long context, all channels among them, say as much as all.
                picked = flat[:: (flat.numel() // 150) | 1]
                cases.append({"model": name, "layer": layer, "text": text, "shape": list(context.shape),
                              "context": numbers(picked), "pooled": numbers(pooled)})
    return cases


def sizes_golden():
    pooled = torch.linspace(-1, 1, 8)[None]
    cases = []
    for cls, given in [(SDXL, {}), (SDXL, dict(width=832, height=1216, crop_w=16, crop_h=8, target_width=1024, target_height=960)),
                       (SDXLRefiner, dict(width=640, height=1000)), (SDXLRefiner, dict(prompt_type="negative")),
                       (SDXLRefiner, dict(aesthetic_score=7.25))]:
        model = cls.__new__(cls)
        torch.nn.Module.__init__(model)
        model.embedder, model.noise_augmentor = Timestep(256), None
        values = {"width": 768, "height": 768, **given}
        cases.append({"model": cls.__name__, "given": values, "y": numbers(model.encode_adm(pooled_output=pooled, **values))})
    return cases


def main():
    use_fake()
    files = {"text-tokens.json": tokens_golden(), "text-encodings.json": encodings_golden(), "text-sizes.json": sizes_golden()}
    GOLDENS.mkdir(parents=True, exist_ok=True)
    for name, cases in files.items():
        body = json.dumps(cases, ensure_ascii=True, separators=(",", ":"))
        (GOLDENS / name).write_text(body.replace("},{", "},\n{") + "\n")
        print(name, len(cases), len(body))


if __name__ == "__main__":
    main()
