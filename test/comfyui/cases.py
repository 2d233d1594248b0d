"""
The matrix: workflows of stock nodes only. Each runs in a ComfyUI without the pack and, unchanged, in
one that takes over; the saved latents (and pictures) are compared. `expects` is what the pack is to
do: "daemon" for all steps there, "local" for auto's way out with a warning, "ignored" for a node
that is left out with one.
"""

import json
from pathlib import Path

import cases_adapters  # noqa: F401
import cases_models  # noqa: F401
import cases_pictures  # noqa: F401
from matrix_case import CASES, FULL_CASES, Case

__all__ = ["CASES", "FULL_CASES"]

# As the frontend's "Export (API)" wrote it (make_pictures.py).
_exported = Path(__file__).parent / "workflows" / "exported.json"
CASES.append(
    Case(
        "a workflow exported from the frontend", json.loads(_exported.read_text()), has_picture=True
    )
)
