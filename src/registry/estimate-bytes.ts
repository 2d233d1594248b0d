import { type Checkpoint, type ComponentName, componentWeights } from "../checkpoint/index.ts";
import { elementCount } from "../tensor/index.ts";

/** What a net is expected to take before the engine has said it: its weights in float32. */
export function estimateBytes(checkpoint: Checkpoint, component: ComponentName): number {
  let bytes = 0;
  for (const { shape } of componentWeights(checkpoint, component)?.values() ?? []) {
    bytes += elementCount(shape) * Float32Array.BYTES_PER_ELEMENT;
  }
  return bytes;
}
