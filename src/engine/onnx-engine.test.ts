import { mkdtemp, rm, symlink } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import * as runtime from "onnxruntime-node";
import { afterAll, beforeAll, expect, test } from "vitest";
import { floatsOf, unetItem } from "../../test/support/engine-items.ts";
import { writeTinyCheckpoint } from "../../test/support/tiny-checkpoint.ts";
import { SILENT_LOGGER } from "../kernel/index.ts";
import { placeWeights } from "./model-folder.ts";
import { OnnxEngine, type OnnxEngineOptions } from "./onnx-engine.ts";
import { providerNamed } from "./providers.ts";
import { checkResult, computeSelfTest, relativeError } from "./self-test.ts";

const cpu = providerNamed("cpu");
let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "luna-onnx-"));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

const createEngine = (options: Partial<OnnxEngineOptions> = {}) =>
  new OnnxEngine({
    ...{ runtime, provider: cpu, threads: 1, loraCacheBytesMax: 1e6, logger: SILENT_LOGGER },
    ...options,
  });

async function step(engine: OnnxEngine, path: string): Promise<Float32Array> {
  await engine.load(path, "unet");
  const { outputs } = await engine.run(path, "unet", [unetItem({ rows: 2 })]);
  await engine.unload(path);
  return floatsOf(outputs[0]?.tensors.get("out"));
}

test.each(["F32", "BF16"] as const)(
  "%s weights from memory give what linked ones give",
  async (dtype) => {
    const path = join(folder, `${dtype}.safetensors`);
    await writeTinyCheckpoint(path, { dtype });
    const linked = await step(createEngine(), path);
    const place = async () => ({ type: "memory" }) as const;
    expect(await step(createEngine({ place }), path)).toEqual(linked);
  },
);

test.skipIf(process.platform !== "linux")(
  "on a full disk a net is opened in memory; a session beside it says what is missing",
  async () => {
    const path = join(folder, "full.safetensors");
    await writeTinyCheckpoint(path);
    const expected = await step(createEngine(), path);
    let isFull = true;
    const place = async () => {
      const own = await placeWeights(path);
      // A real ENOSPC: the graph is written to a device that is always full.
      if (own.type === "linked" && isFull)
        await symlink("/dev/full", join(own.folder, "graph.onnx"));
      return own;
    };
    expect(await step(createEngine({ place }), path)).toEqual(expected);
    isFull = false;
    const engine = createEngine({ place });
    await engine.load(path, "unet");
    isFull = true;
    const features = { pag: { blocks: ["middle.0"] } };
    const run = () => engine.run(path, "unet", [{ ...unetItem({ rows: 2 }), features }]);
    await expect(run()).rejects.toMatchObject({ code: "DISK_FULL" });
    isFull = false;
    expect((await run()).outputs).toHaveLength(1);
    await engine.unload(path);
  },
);

test("the other forms of the operators agree with the CPU's", async () => {
  const path = join(folder, "forms.safetensors");
  await writeTinyCheckpoint(path);
  const choices = providerNamed("webgpu").choices;
  const plain = await step(createEngine({ provider: { ...cpu, choices } }), path);
  expect(relativeError(plain, await step(createEngine(), path))).toBeLessThan(1e-5);
});

test("the CPU passes the self-test, a wrong result does not", async () => {
  const { output, ms } = await computeSelfTest(runtime, cpu);
  expect(ms).toBeGreaterThan(0);
  checkResult(cpu, output, undefined);
  output[0] = (output[0] ?? 0) + 0.01;
  expect(() => checkResult(cpu, output, undefined)).toThrowError(
    expect.objectContaining({ code: "DEVICE_UNAVAILABLE" }),
  );
});
