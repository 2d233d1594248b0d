/** One layer with parameters, under its canonical name and the one diffusers or transformers use. */
export type Layer = Readonly<{
  name: string;
  diffusers: string;
  /** Shape of `.weight`: [outputs, inputs], [outputs, inputs, kh, kw], or [channels] of a norm. */
  weight: readonly number[];
  /** `.bias` is [weight[0]]. */
  hasBias: boolean;
}>;

/** Names a layer has below the two prefixes of its module. */
export type LayerNames = readonly [name: string, diffusers: string];

export const linear = (
  [name, diffusers]: LayerNames,
  outputs: number,
  inputs: number,
  hasBias = true,
): Layer => ({ name, diffusers, weight: [outputs, inputs], hasBias });

export const conv = (
  [name, diffusers]: LayerNames,
  outputs: number,
  inputs: number,
  kernel: 1 | 3 = 3,
): Layer => ({ name, diffusers, weight: [outputs, inputs, kernel, kernel], hasBias: true });

export const norm = ([name, diffusers]: LayerNames, channels: number): Layer => ({
  name,
  diffusers,
  weight: [channels],
  hasBias: true,
});

/** Puts the layers of a module below its two prefixes. */
export function under([name, diffusers]: LayerNames, layers: readonly Layer[]): Layer[] {
  return layers.map((layer) => ({
    ...layer,
    name: `${name}.${layer.name}`,
    diffusers: `${diffusers}.${layer.diffusers}`,
  }));
}

/** Canonical weight names with their shapes. */
export function layerWeights(layers: readonly Layer[]): Map<string, readonly number[]> {
  const weights = new Map<string, readonly number[]>();
  for (const { name, weight, hasBias } of layers) {
    weights.set(`${name}.weight`, weight);
    if (hasBias) weights.set(`${name}.bias`, weight.slice(0, 1));
  }
  return weights;
}
