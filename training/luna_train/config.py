"""All sizes, seeds and times of the recipe in one place."""

import os
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
ASSETS = HERE.parent / "assets"
# Data, checkpoints and sheets: outside the repository's tracked files.
WORK = Path(os.environ.get("LUNA_TRAIN_DIR", HERE / "work"))

SEED = 19283
THREADS = int(os.environ.get("LUNA_TRAIN_THREADS", "2"))
PICTURE = 128
LATENT = PICTURE // 8
SCALE = 0.18215

VAE_CHANNELS = 32
VAE_MULTIPLIERS = (1, 1, 2, 2)
VAE_RES_BLOCKS = 1

STYLES = ("blueprint", "pixel", "high-contrast")

# (steps, batch, side): crops first, whole pictures after.
VAE_PHASES = ((1300, 8, 64), (600, 4, 128))
VAE_RATE = 3e-3

UNET_CHANNELS = 64
UNET_MULTIPLIERS = (1, 2, 4)
UNET_ATTENTION_LEVELS = (1, 2)
UNET_RES_BLOCKS = 1
CONTEXT = 128
TEXT_LAYERS = 3
TOKENS = 77
VOCABULARY = 49408

UNET_STEPS = 2300
UNET_BATCH = 64
UNET_CAPTIONS = 32
UNET_RATE = 2.5e-3

LORA_STEPS = 300
LORA_BATCH = 32
LORA_RATE = 3e-3
# Of that rate, for the text encoder's layers: at the full rate every caption came to mean the same.
LORA_TEXT_SHARE = 0.03

DECODER_STEPS = 300
DECODER_BATCH = 8
DECODER_RATE = 1.5e-3
