/**
 * A weight with an adapter's additive form in it (src/lora/types.ts), for when the changed weight itself
 * is needed: row * weight * column + up^T down. Inputs weight [outputs, columns], up [rank, outputs],
 * down [rank, columns], row [outputs, 1], column [1, columns]; output "changed", shaped as the weight.
 */
import { GraphBuilder } from "./graph-builder.ts";
import { int } from "./onnx.ts";

export function buildChangedWeightGraph(): Uint8Array {
  const b = new GraphBuilder({
    ...{ name: "changed-weight", weights: new Map(), externalFile: "", hasAdapters: false },
    choices: { attention: "fused", compute: "float32", rankMin: 0 },
  });
  const weight = b.input("weight", ["outputs", "columns"]);
  const up = b.input("up", ["rank", "outputs"]);
  const down = b.input("down", ["rank", "columns"]);
  const row = b.input("row", ["outputs", 1]);
  const column = b.input("column", [1, "columns"]);
  const scaled = b.node("Mul", [b.node("Mul", [weight, row]), column]);
  const product = b.node("FusedMatMul", [up, down], {
    domain: "com.microsoft",
    attributes: { transA: int(1) },
  });
  b.output("changed", b.node("Add", [scaled, product]), { shape: ["outputs", "columns"] });
  return b.build().model;
}
