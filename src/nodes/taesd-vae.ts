/** ComfyUI's "taesd" and "taesdxl": a VAE of two small files in vae_approx, one for each direction. */
import type { CallOptions, ModelInfo, VaeModel } from "../client/index.ts";
import type { FloatTensor } from "../tensor/index.ts";

/** The factor between a VAE's latents and a UNet's, by family: the files do not tell theirs. */
const SCALES: Readonly<Record<string, number>> = { taesd: 0.18215, taesdxl: 0.13025 };

type Half = "encoder" | "decoder";
type Options = CallOptions & { tile?: { size: number; overlap: number } };

/** The file of one half among those of vae_approx. */
export function taesdFile(files: readonly string[], name: string, half: Half): string | undefined {
  return files.find((file) => file.startsWith(`${name}_${half}.`));
}

/** Names that stand for a VAE, as ComfyUI lists them: those with both files. */
export function taesdNames(files: readonly string[]): string[] {
  return Object.keys(SCALES).filter((name) =>
    (["encoder", "decoder"] as const).every((half) => taesdFile(files, name, half) !== undefined),
  );
}

export class TaesdVae implements VaeModel {
  readonly info: ModelInfo;
  readonly #halves: Readonly<Record<Half, VaeModel>>;

  /** `name` is one of `taesdNames`. */
  constructor(name: string, halves: Readonly<Record<Half, VaeModel>>) {
    const { info } = halves.decoder;
    const latentScale = SCALES[name] ?? info.latentScale;
    const vae = info.vae && { ...info.vae, hasEncoder: true };
    this.info = { ...info, latentScale, ...(vae && { vae }) };
    this.#halves = halves;
  }

  decode(latent: FloatTensor, options?: Options): Promise<FloatTensor> {
    const { decoder } = this.#halves;
    const factor = this.info.latentScale / decoder.info.latentScale;
    return decoder.decode(times(latent, factor), options);
  }

  async encode(image: FloatTensor, options?: Options): Promise<FloatTensor> {
    const { encoder } = this.#halves;
    const latent = await encoder.encode(image, options);
    return times(latent, encoder.info.latentScale / this.info.latentScale);
  }
}

function times({ shape, data }: FloatTensor, factor: number): FloatTensor {
  return factor === 1 ? { shape, data } : { shape, data: data.map((value) => value * factor) };
}
