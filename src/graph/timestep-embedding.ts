/**
 * Sinusoidal embedding of timesteps, cosines first, as LDM's timestep_embedding with a period of
 * 10,000. Computed on the host: some providers are off by 1e-4 in sine and cosine of large
 * arguments. Every step is rounded to float32, as PyTorch computes it.
 * Returns [timesteps, channels], row-major; timesteps may be fractional or negative.
 */
export function timestepEmbedding(timesteps: Float32Array, channels: number): Float32Array {
  const half = Math.floor(channels / 2);
  const embedding = new Float32Array(timesteps.length * channels);
  const logPeriod = Math.fround(-Math.log(10_000));
  const frequencies = Float32Array.from({ length: half }, (_, index) =>
    Math.exp(Math.fround(Math.fround(logPeriod * index) / half)),
  );
  for (const [row, timestep] of timesteps.entries()) {
    for (const [index, frequency] of frequencies.entries()) {
      const angle = Math.fround(timestep * frequency);
      embedding[row * channels + index] = Math.cos(angle);
      embedding[row * channels + half + index] = Math.sin(angle);
    }
  }
  return embedding;
}
