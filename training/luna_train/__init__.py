"""The recipe behind the embedded model: a small Stable Diffusion in SD1 layout."""
