/** Pictures as clients make them, step by step, for tests of what may happen meanwhile. */
import type { DaemonModel } from "../../src/client/index.ts";
import { floatTensor } from "../../src/tensor/index.ts";
import { seededValues } from "./seeded.ts";

/** With these a tiny model's context is long enough to be sent once and then named by its digest. */
const TOKENS = 154;

export type PictureOptions = Readonly<{ steps: number; side?: number; rows?: number }>;

/** One picture's final latent: Euler steps on whatever the model says, from a seeded start. */
export async function makePicture(
  model: DaemonModel,
  seed: number,
  { steps, side = 8, rows = 1 }: PictureOptions,
): Promise<Float32Array> {
  const shape = [rows, 4, side, side];
  const count = rows * 4 * side * side;
  let x = seededValues(`x${seed}`, count, 1);
  const width = model.info.unet?.contextDim ?? 8;
  const words = seededValues(`c${seed}`, rows * TOKENS * width, 1);
  const context = floatTensor([rows, TOKENS, width], words);
  for (let step = 0; step < steps; step++) {
    const timesteps = new Float32Array(rows).fill(999 - (999 * step) / steps);
    const { data } = await model.forward({ x: floatTensor(shape, x), timesteps, context });
    x = x.map((value, at) => value - (data[at] ?? 0) / steps);
  }
  return x;
}

/** Each client makes its pictures one after another, all clients at once; in order of seeds. */
export async function makePictures(
  models: readonly DaemonModel[],
  each: number,
  options: PictureOptions,
): Promise<Float32Array[]> {
  const series = models.map(async (model, client) => {
    const pictures: Float32Array[] = [];
    for (let n = 0; n < each; n++) {
      pictures.push(await makePicture(model, client * each + n, options));
    }
    return pictures;
  });
  return (await Promise.all(series)).flat();
}

/**
 * Calls `act` up to `countMax` times, each time after a seeded pause since the last was done, until
 * the function returned is called.
 */
export function disturb(
  act: () => unknown,
  options: { seed: string; pauseMs: readonly [number, number]; countMax?: number },
): () => number {
  const { seed, pauseMs, countMax = Number.POSITIVE_INFINITY } = options;
  const [least, most] = pauseMs;
  let isOver = false;
  let count = 0;
  let timer: NodeJS.Timeout | undefined;
  const next = (): void => {
    if (isOver || count >= countMax) return;
    const share = ((seededValues(`${seed}${count}`, 1)[0] ?? 0) + 1) / 2;
    timer = setTimeout(
      async () => {
        await act();
        count++;
        next();
      },
      least + share * (most - least),
    );
  };
  next();
  return () => {
    isOver = true;
    clearTimeout(timer);
    return count;
  };
}
