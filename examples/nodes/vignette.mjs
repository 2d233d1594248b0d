/** A node of one's own: `luna instance --nodes examples/nodes` shows it as "Vignette". */
export const vignette = {
  name: "ExampleVignette",
  displayName: "Vignette",
  category: "image/examples",
  description: "Darkens a picture towards its corners.",
  inputs: {
    image: { type: "IMAGE" },
    strength: { type: "FLOAT", default: 0.5, min: 0, max: 1, step: 0.01 },
  },
  outputs: [{ type: "IMAGE", name: "IMAGE" }],
  /** A picture is {shape: [batch, height, width, 3], data: Float32Array of 0..1}. */
  run({ image, strength }) {
    const [, height, width, channels] = image.shape;
    const data = image.data.map((value, index) => {
      const x = (Math.floor(index / channels) % width) / (width - 1 || 1) - 0.5;
      const y = (Math.floor(index / channels / width) % height) / (height - 1 || 1) - 0.5;
      return value * (1 - strength * 2 * (x * x + y * y));
    });
    return { outputs: [{ shape: image.shape, data }] };
  },
};
