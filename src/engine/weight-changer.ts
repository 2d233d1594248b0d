/** Whole weights with low-rank changes in them, computed by ONNX Runtime: some forty times as fast as here. */
import { buildChangedWeightGraph } from "../graph/index.ts";
import type { ApplyChange } from "../lora/index.ts";
import { providerNamed } from "./providers.ts";
import { type InferenceSession, type Runtime, runSession } from "./runtime.ts";

/** The session is made when it is first needed, on the CPU, where the weights are. */
export function weightChanger(runtime: Runtime): ApplyChange {
  let session: Promise<InferenceSession> | undefined;
  return async (weight, { rank, up, down, row, column }, { strength, target }) => {
    session ??= runtime.InferenceSession.create(
      buildChangedWeightGraph(),
      providerNamed("cpu").sessionOptions,
    );
    const { outputs, inputs, kernel } = target;
    const taps = kernel[0] * kernel[1];
    const columns = inputs * taps;
    const factors = (count: number, of: (i: number) => number) =>
      Float32Array.from({ length: count }, (_, i) => 1 + strength * of(i));
    const float = (data: Float32Array, shape: readonly number[]) =>
      new runtime.Tensor("float32", data, shape);
    const result = await runSession(await session, {
      weight: float(weight, [outputs, columns]),
      up: float(strength === 1 ? up : up.map((value) => strength * value), [rank, outputs]),
      down: float(down, [rank, columns]),
      row: float(
        factors(outputs, (o) => row?.[o] ?? 0),
        [outputs, 1],
      ),
      column: float(
        factors(columns, (i) => column?.[Math.floor(i / taps)] ?? 0),
        [1, columns],
      ),
    });
    return result.outputs.get("changed")?.data ?? weight;
  };
}
