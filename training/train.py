"""One command for the whole recipe: python training/train.py all

Stages: data, vae, unet, loras, decoder, export, evaluate. Each one skips what is done and continues what was stopped.
"""

import sys

import torch

from luna_train.config import THREADS

STAGES = ("data", "vae", "unet", "loras", "decoder", "export", "evaluate")
LOOKS = ("early",)  # exports what there is so far to the work folder


def run(stage: str):
    if stage == "data":
        from luna_train.data import prepare

        prepare()
    elif stage == "vae":
        from luna_train.train_vae import train_vae

        train_vae()
    elif stage == "unet":
        from luna_train.train_unet import train_unet

        train_unet()
    elif stage == "loras":
        from luna_train.train_lora import train_loras

        train_loras()
    elif stage == "decoder":
        from luna_train.train_decoder import train_decoder

        train_decoder()
    elif stage == "export":
        from luna_train.export import export_all

        export_all()
    elif stage == "early":
        from luna_train.export import export_early

        export_early()
    elif stage == "evaluate":
        from luna_train.evaluate import evaluate

        evaluate()


def main(arguments):
    wanted = STAGES if arguments in ([], ["all"]) else arguments
    unknown = [stage for stage in wanted if stage not in STAGES + LOOKS]
    if unknown:
        sys.exit(f"unknown stage {unknown[0]}; stages: all {' '.join(STAGES)}")
    for stage in wanted:
        torch.set_num_threads(THREADS)
        run(stage)


if __name__ == "__main__":
    main(sys.argv[1:])
