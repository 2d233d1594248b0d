/**
 * Control nets of the daemon against the same residuals sent by the client: a real engine process,
 * every kind of net, mixed batches.
 */
import { afterAll, beforeAll, expect, test } from "vitest";
import type { ControlInput, DaemonModel, LunaClient } from "../../src/client/index.ts";
import { type FloatTensor, floatTensor } from "../../src/tensor/index.ts";
import {
  controlId,
  controlOf,
  netOf,
  scaled,
  seeded,
  startControlDaemon,
  sum,
  WIDE,
} from "../support/control-daemon.ts";
import { relativeError } from "../support/graph-session.ts";
import type { RealDaemon } from "../support/real-daemon.ts";
import { TINY_TEXT_WIDTH } from "../support/tiny-checkpoint.ts";
import { residualsHere } from "../support/tiny-control.ts";

const [ROWS, HEIGHT, WIDTH] = [2, 6, 9];

let daemon: RealDaemon;
let client: LunaClient;
let model: DaemonModel;
beforeAll(async () => {
  daemon = await startControlDaemon();
  client = await daemon.client("control");
  model = (await client.registerModelByPath({ name: WIDE })).model ?? expect.fail("no UNet");
});
afterAll(() => daemon.close());

const step = {
  x: seeded("x", [ROWS, 4, HEIGHT, WIDTH], 2),
  timesteps: [700, 20.5],
  context: seeded("context", [ROWS, 7, TINY_TEXT_WIDTH], 2),
};

function hintOf(name: string, rows = ROWS): FloatTensor {
  const { config } = netOf(name);
  return seeded(`hint ${name}`, [rows, config.hintChannels, 8 * HEIGHT, 8 * WIDTH]);
}

const inputOf = (name: string, changes: Partial<ControlInput> = {}): ControlInput => {
  const { type } = netOf(name);
  return {
    ...{ model: controlId(name), hint: hintOf(name), strength: 1 },
    ...(type !== undefined && { type }),
    ...changes,
  };
};

/** What a client would send itself. */
async function residuals(name: string, hint = hintOf(name)): Promise<Map<string, FloatTensor>> {
  const { config, seed, type } = netOf(name);
  const own = { ...step, hint, ...(type !== undefined && { type }) };
  return residualsHere(config, seed, own);
}

test.each(["canny", "diffusers", "union", "auto", "adapter"])(
  "%s in the daemon equals its residuals sent",
  async (name) => {
    const own = await residuals(name);
    const bare = await model.forward(step);
    for (const strength of [1, 0.3]) {
      const control = controlOf(scaled(own, [strength, strength]));
      const sent = await model.forward({ ...step, control });
      const served = await model.forward({ ...step, controls: [inputOf(name, { strength })] });
      expect(relativeError(served, sent)).toBeLessThan(1e-5);
      expect(relativeError(sent, bare)).toBeGreaterThan(1e-3);
    }
  },
);

test("nets of a chain add up, each on its rows, beside residuals that are sent", async () => {
  const [first, second, third] = [
    await residuals("canny"),
    await residuals("adapter"),
    await residuals("union"),
  ];
  const control = controlOf(
    sum([
      scaled(first, [0.8, 0.8]),
      scaled(second, [0, 1.5]),
      scaled(third, [0.4, 0]),
      scaled(first, [0, 0.25]),
    ]),
  );
  const sent = await model.forward({ ...step, control });
  const controls = [
    inputOf("canny", { strength: 0.8 }),
    inputOf("adapter", { strength: 1.5, rows: [1] }),
    inputOf("union", { strength: 0.4, rows: [0] }),
    inputOf("canny", { strength: 0.25, rows: [1] }),
  ];
  expect(relativeError(await model.forward({ ...step, controls }), sent)).toBeLessThan(1e-5);
  const rest = controls.slice(1);
  const part = controlOf(scaled(first, [0.8, 0.8]));
  const both = await model.forward({ ...step, control: part, controls: rest });
  expect(relativeError(both, sent)).toBeLessThan(1e-5);
});

test("one hint serves all rows, and a shuffle net acts by its means", async () => {
  const hint = hintOf("canny", 1);
  const twice = floatTensor(
    [2, ...hint.shape.slice(1)],
    Float32Array.from([...hint.data, ...hint.data]),
  );
  const own = await residuals("canny", twice);
  const sent = await model.forward({ ...step, control: controlOf(own) });
  const served = await model.forward({ ...step, controls: [inputOf("canny", { hint })] });
  expect(relativeError(served, sent)).toBeLessThan(1e-5);
  const means = new Map(
    Array.from(own, ([name, { shape, data }]) => {
      const [rows = 0, channels = 0, height = 1, width = 1] = shape;
      const size = height * width;
      const values = Float32Array.from({ length: rows * channels }, (_, i) => {
        return data.subarray(i * size, (i + 1) * size).reduce((a, b) => a + b, 0) / size;
      });
      return [name, floatTensor([rows, channels, 1, 1], values)] as const;
    }),
  );
  const shuffled = await model.forward({ ...step, controls: [inputOf("t2i_shuffle", { hint })] });
  const pooled = await model.forward({ ...step, control: controlOf(means) });
  expect(relativeError(shuffled, pooled)).toBeLessThan(1e-5);
});

test("steps with and without control share a run, and each is as if alone", async () => {
  const others = await Promise.all(["a", "b", "c"].map((name) => daemon.client(name)));
  const place = { name: WIDE };
  const models = await Promise.all(
    others.map(async (each) => (await each.registerModelByPath(place)).model ?? expect.fail()),
  );
  const changes = [
    { controls: [inputOf("canny", { strength: 0.7 })] },
    {},
    { controls: [inputOf("adapter"), inputOf("canny", { rows: [0] })] },
  ];
  const alone: FloatTensor[] = [];
  for (const [index, each] of models.entries()) {
    alone.push(await each.forward({ ...step, ...changes[index] }));
  }
  for (let round = 0; round < 3; round++) {
    const together = await Promise.all(
      models.map((each, index) => each.forward({ ...step, ...changes[index] })),
    );
    for (const [index, result] of together.entries()) {
      expect(relativeError(result, alone[index] ?? result)).toBeLessThan(1e-5);
    }
  }
  const clients = models.flatMap(({ steps }) => steps.map(({ batchClients }) => batchClients));
  expect(Math.max(...clients)).toBeGreaterThan(1);
});

test("control nets are listed, described, counted and unloaded like other models", async () => {
  const { models } = await client.list();
  expect(models.map(({ id }) => id)).toContain("controlnet/canny.safetensors");
  const { info } = await client.registerModelByPath({ name: "controlnet/union.safetensors" });
  expect(info.control).toEqual({
    ...{ kind: "controlnet", hintChannels: 3, hintMultiple: 8, unionTypes: 4 },
  });
  const nets = async () =>
    (await client.status()).models.find(({ id }) => id === controlId("canny"));
  expect(await nets()).toMatchObject({
    ...{ copies: 1, users: 0, components: ["control-hint", "control-net"] },
  });
  await client.unload(controlId("canny"));
  expect((await nets())?.copies ?? 0).toBe(0);
  const served = await model.forward({ ...step, controls: [inputOf("canny")] });
  const sent = await model.forward({ ...step, control: controlOf(await residuals("canny")) });
  expect(relativeError(served, sent)).toBeLessThan(1e-5);
});

test("what does not fit is one clear error", async () => {
  const forward = (changes: Partial<ControlInput>, name = "canny") =>
    model.forward({ ...step, controls: [inputOf(name, changes)] });
  await expect(forward({ model: "controlnet/none.safetensors" })).rejects.toMatchObject({
    code: "MODEL_UNKNOWN",
  });
  await expect(forward({ model: "checkpoints/tiny.safetensors" })).rejects.toThrow(
    /has no control/,
  );
  await expect(forward({ hint: seeded("h", [1, 3, 48, 48]) })).rejects.toThrow(
    /"hint.0" is \[1, 3/,
  );
  await expect(forward({ rows: [2] })).rejects.toThrow(/row 2 of 2/);
  await expect(forward({ type: 9 }, "union")).rejects.toThrow(/knows 4 kinds of hints/);
  const { model: other } = await client.registerModelByPath({
    name: "checkpoints/tiny.safetensors",
  });
  await expect(other?.forward({ ...step, controls: [inputOf("canny")] })).rejects.toThrow(
    /does not fit this UNet/,
  );
});
