import * as runtime from "onnxruntime-node";
import { expect, test } from "vitest";
import { weightTarget } from "../../test/support/lora-models.ts";
import { seededValues } from "../../test/support/seeded.ts";
import { applyLowRank } from "../lora/index.ts";
import { relativeError } from "./self-test.ts";
import { weightChanger } from "./weight-changer.ts";

test.each([0, 1, 5])(
  "a weight with a change of rank %i is what the plain loops make of it",
  async (rank) => {
    const apply = weightChanger(runtime);
    for (const shape of [
      [6, 4],
      [3, 2, 3, 3],
    ]) {
      const target = weightTarget("x", shape);
      const count = shape.reduce((product, axis) => product * axis, 1);
      const columns = count / target.outputs;
      const weight = seededValues("w", count);
      const plain = {
        rank,
        down: seededValues("down", rank * columns),
        up: seededValues("up", rank * target.outputs),
      };
      const row = seededValues("row", target.outputs);
      const column = seededValues("column", target.inputs);
      for (const change of [
        plain,
        { ...plain, row },
        { ...plain, column },
        { ...plain, row, column },
      ]) {
        const options = { strength: 0.7, target };
        const expected = applyLowRank(weight, change, options);
        expect(relativeError(await apply(weight, change, options), expected)).toBeLessThan(1e-6);
      }
    }
  },
);
