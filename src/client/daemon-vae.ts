import { type FloatTensor, fromFloat } from "../tensor/index.ts";
import { takeTensor } from "./daemon-model.ts";
import type { LunaLink } from "./luna-link.ts";
import type { CallOptions, ModelInfo, VaeModel } from "./types.ts";

type TileOptions = CallOptions & { tile?: { size: number; overlap: number } };

/** The VAE of a served checkpoint (the seed's DaemonVAE). Tile sizes are in pixels. */
export class DaemonVae implements VaeModel {
  readonly info: ModelInfo;
  readonly #link: LunaLink;

  constructor(link: LunaLink, info: ModelInfo) {
    this.#link = link;
    this.info = info;
  }

  async decode(latent: FloatTensor, { tile, ...options }: TileOptions = {}): Promise<FloatTensor> {
    const { tensors } = await this.#link.run(
      { op: "vae_decode", model: this.info.id, ...(tile ? { tile } : {}) },
      { own: new Map([["latent", fromFloat(latent)]]) },
      options,
    );
    return takeTensor(tensors, "image");
  }

  async encode(image: FloatTensor, { tile, ...options }: TileOptions = {}): Promise<FloatTensor> {
    const { tensors } = await this.#link.run(
      { op: "vae_encode", model: this.info.id, ...(tile ? { tile } : {}) },
      { own: new Map([["image", fromFloat(image)]]) },
      options,
    );
    return takeTensor(tensors, "latent");
  }
}
