"""Runs a full-width net in ONNX Runtime (full-net.ts) and compares it with PyTorch's outputs."""
import json
import subprocess
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file

HERE = Path(__file__).parent
TOLERANCE = 1e-5


def random_weight(name, shape, random):
    """Unit gain: matrices by their inputs, embeddings small, norms near 1."""
    if len(shape) > 1 and "embedding" not in name:
        return torch.randn(shape, generator=random) * torch.Size(shape[1:]).numel() ** -0.5
    return torch.randn(shape, generator=random) * 0.05 + (len(shape) == 1 and name.endswith(".weight"))


def compare(title, weights, case, feeds, expected):
    """Prints the relative L2 error of each output; true when all are within the tolerance."""
    with tempfile.TemporaryDirectory() as folder:
        save_file({name: value.contiguous() for name, value in weights.items()}, Path(folder) / "weights.safetensors")
        parts = {f"feed.{name}": value for name, value in feeds.items()}
        parts |= {f"expected.{name}": value for name, value in expected.items()}
        save_file({name: value.contiguous() for name, value in parts.items()}, Path(folder) / "case.safetensors")
        (Path(folder) / "case.json").write_text(json.dumps(case))
        command = ["npx", "tsx", str(HERE / "full-net.ts"), folder]
        out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    result = json.loads(out.splitlines()[-1])
    count = sum(value.numel() for value in weights.values())
    errors = ", ".join(f"{name} {error:.1e}" for name, error in result["errors"].items())
    print(f"{title}: {count / 1e6:.1f} M parameters, relative L2 error: {errors}; create {result['createMs']} ms, "
          f"runs {result['runMs']} ms, resident {result['rssMb']} MB", flush=True)
    return max(result["errors"].values()) <= TOLERANCE
