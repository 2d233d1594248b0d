/** What every engine does, whatever computes inside. Each implementation runs it in a few lines. */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { Engine } from "../../src/engine/index.ts";
import { floatsOf, randomFloats, textItem, unetItem } from "../support/engine-items.ts";
import { relativeError } from "../support/graph-session.ts";

/** An engine and the path of a tiny SD1 checkpoint that it can load. */
export type EngineUnderTest = Readonly<{ engine: Engine; path: string }>;

const vector = (data: Float32Array) => ({ shape: [data.length], data });

export function runEngineSuite(name: string, create: () => Promise<EngineUnderTest>): void {
  describe(name, () => {
    let engine: Engine;
    let path: string;
    beforeAll(async () => {
      ({ engine, path } = await create());
      await engine.load(path, "unet");
    });
    afterAll(() => engine.close());

    test("loading says what it takes; loading again changes nothing", async () => {
      const first = await engine.load(path, "unet");
      expect(first.bytes).toBeGreaterThan(0);
      const again = await engine.load(path, "unet");
      expect(again.bytes).toBe(first.bytes);
      const { loaded, pid } = await engine.info();
      expect(loaded).toEqual([{ path, component: "unet", bytes: first.bytes }]);
      expect(pid).toBeGreaterThan(0);
    });

    test("a UNet step has the shape of x, and is the same each time", async () => {
      const item = unetItem({ rows: 2 });
      const [first] = (await engine.run(path, "unet", [item])).outputs;
      const [again] = (await engine.run(path, "unet", [item])).outputs;
      expect(first?.tensors.get("out")?.shape).toEqual([2, 4, 8, 8]);
      expect(first?.warnings).toEqual([]);
      expect(again?.tensors.get("out")?.bytes).toEqual(first?.tensors.get("out")?.bytes);
    });

    test("items of a batch come back in order, each as if it were alone", async () => {
      const items = [unetItem({ seed: 1 }), unetItem({ seed: 2, rows: 2 }), unetItem({ seed: 3 })];
      const { outputs } = await engine.run(path, "unet", items);
      for (const [index, item] of items.entries()) {
        const alone = (await engine.run(path, "unet", [item])).outputs[0];
        const [actual, expected] = [outputs[index], alone].map((output) =>
          vector(floatsOf(output?.tensors.get("out"))),
        );
        if (actual === undefined || expected === undefined)
          throw new Error("An output is missing.");
        expect(relativeError(actual, expected)).toBeLessThan(1e-5);
      }
    });

    test("calls at once are answered each with its own result", async () => {
      const seeds = [1, 2, 3, 4];
      const alone: Uint8Array[] = [];
      for (const seed of seeds) {
        const { outputs } = await engine.run(path, "unet", [unetItem({ seed })]);
        alone.push(outputs[0]?.tensors.get("out")?.bytes ?? new Uint8Array());
      }
      const together = await Promise.all(
        seeds.map((seed) => engine.run(path, "unet", [unetItem({ seed })])),
      );
      expect(together.map(({ outputs }) => outputs[0]?.tensors.get("out")?.bytes)).toEqual(alone);
    });

    test("text encoders and VAE give their outputs by name", async () => {
      await engine.load(path, "clip-l");
      await engine.load(path, "vae-decoder");
      await engine.load(path, "vae-encoder");
      const [text] = (await engine.run(path, "clip-l", [textItem([320, 1125])])).outputs;
      expect(text?.tensors.get("hidden")?.shape).toEqual([1, 77, 8]);
      expect(text?.tensors.get("pooled")?.shape).toEqual([1, 8]);
      const latent = { loras: [], tensors: new Map([["latent", randomFloats([1, 4, 4, 6], 5)]]) };
      const [decoded] = (await engine.run(path, "vae-decoder", [latent])).outputs;
      expect(decoded?.tensors.get("image")?.shape).toEqual([1, 3, 32, 48]);
      const image = { loras: [], tensors: new Map([["image", randomFloats([1, 3, 32, 48], 6)]]) };
      const [encoded] = (await engine.run(path, "vae-encoder", [image])).outputs;
      expect(encoded?.tensors.get("latent")?.shape).toEqual([1, 4, 4, 6]);
    });

    test("a request without its tensor is one clear error, and the next one is served", async () => {
      const item = { loras: [], tensors: new Map([["x", randomFloats([1, 4, 8, 8], 1)]]) };
      await expect(engine.run(path, "unet", [item])).rejects.toMatchObject({
        code: "TENSOR_MALFORMED",
      });
      expect((await engine.run(path, "unet", [unetItem()])).outputs).toHaveLength(1);
    });

    test("what is not loaded is not run; what is closed says so", async () => {
      await engine.unload(path, "vae-encoder");
      await expect(engine.run(path, "vae-encoder", [unetItem()])).rejects.toMatchObject({
        code: "MODEL_UNKNOWN",
      });
      await engine.unload(path);
      expect((await engine.info()).loaded).toEqual([]);
      await engine.close();
      await expect(engine.load(path, "unet")).rejects.toMatchObject({ code: "SHUTTING_DOWN" });
    });
  });
}
