import { expect, test } from "vitest";
import { LunaError } from "../kernel/index.ts";
import { NO_TENSORS, type Op, type RequestBody } from "../protocol/index.ts";
import { digestTensor, floatTensor, fromFloat, type Tensor } from "../tensor/index.ts";
import { DaemonClip } from "./daemon-clip.ts";
import { DaemonModel } from "./daemon-model.ts";
import { FallbackPeer } from "./fallback-peer.ts";
import { LunaLink } from "./luna-link.ts";
import type { Peer, Reply } from "./peer.ts";
import type { ModelInfo } from "./types.ts";

const info: ModelInfo = {
  ...{ id: "checkpoints/a", prediction: "eps", isZeroTerminalSnr: false, latentScale: 1 },
  ...{ dtype: "F16", bytes: 1, textEncoders: [] },
};

type Asked = { body: RequestBody; tensors: ReadonlyMap<string, Tensor> };

/** Answers every request by `respond`, which may throw. */
function createPeer(respond: (asked: Asked) => Partial<Reply<Op>> = () => ({})) {
  const asked: Asked[] = [];
  const peer: Peer = {
    era: {},
    async request(body, tensors = NO_TENSORS) {
      const request = { body, tensors } as Asked; // The body of one operation is a body.
      asked.push(request);
      const timings = { queueMs: 1, engineMs: 2, batch: { rows: 3, clients: 2 } };
      const empty = { data: {}, warnings: [], totalMs: 10, timings, tensors: NO_TENSORS };
      return { ...empty, ...respond(request) } as never; // What the operation answers is up to the test.
    },
    close: async () => undefined,
  };
  return { peer, asked };
}

const out = fromFloat(floatTensor([1, 4, 2, 2]));
const answerStep = ({ body }: Asked): Partial<Reply<Op>> =>
  body.op === "model_forward" ? { tensors: new Map([["out", out]]) } : {};
const step = () => ({
  x: floatTensor([1, 4, 2, 2]),
  timesteps: [999.5],
  context: floatTensor([1, 77, 768]),
});

test("the proxy has the seed's surface and changes only itself", () => {
  const lines: string[] = [];
  const model = new DaemonModel(new LunaLink(createPeer().peer, (line) => lines.push(line)), info);
  const copy = model.clone();
  model.addLora("character_lora", 0.8);
  expect(model.loraStack).toEqual([
    { name: "character_lora", strengthModel: 0.8, strengthClip: 0 },
  ]);
  expect(copy.loras).toEqual([]);
  expect(model.withLora({ name: "b", strengthModel: 1, strengthClip: 1 }).loras).toHaveLength(2);
  expect(model.loras).toHaveLength(1);
  expect([model.model, model.patchModel(), model.unpatchModel()]).toEqual([model, model, model]);
  expect(model.modelDtype()).toBe("F16");
  model.clearLoras();
  expect(model.loras).toEqual([]);
  expect(lines).toEqual([
    "[DaemonModel] Added LoRA 'character_lora' (model_str=0.8), stack size: 1",
  ]);
});

test("a forward sends its tensors by slot, its LoRAs by strength, and logs the step", async () => {
  const { peer, asked } = createPeer(answerStep);
  const link = new LunaLink(peer, () => undefined);
  const digest = `sha256:${"0".repeat(64)}`;
  const model = new DaemonModel(link, info, {
    loras: [
      { name: "a", strengthModel: 0.5, strengthClip: 1 },
      { name: "off", strengthModel: 0, strengthClip: 1 },
      { name: digest, strengthModel: 2, strengthClip: 0 },
    ],
  });
  const residual = floatTensor([1, 320, 2, 2]);
  const control = { input: [], middle: [residual], output: [undefined, residual] };
  await model.forward({ ...step(), y: floatTensor([1, 2816]), control });
  expect(asked[0]?.body).toEqual({
    ...{ op: "model_forward", model: "checkpoints/a" },
    loras: [
      { name: "a", strength: 0.5 },
      { digest, strength: 2 },
    ],
  });
  expect([...(asked[0]?.tensors.keys() ?? [])].sort()).toEqual([
    ...["context", "control.middle.0", "control.output.1", "timesteps", "x", "y"],
  ]);
  expect(model.steps).toMatchObject([{ engineMs: 2, queueMs: 1, batchRows: 3, batchClients: 2 }]);
});

test("what the daemon forgot is put again; when that does not help it goes inside the request", async () => {
  const inputs = step();
  const digest = digestTensor(fromFloat(inputs.context));
  let isStubborn = false;
  const stored = new Set<string>();
  const { peer, asked } = createPeer((request) => {
    const { body, tensors } = request;
    if (body.op === "put_tensors" && !isStubborn)
      for (const name of tensors.keys()) stored.add(name);
    const refs = body.op === "model_forward" ? Object.values(body.refs ?? {}) : [];
    const digests = refs.filter((name) => !stored.has(name));
    if (digests.length === 0) return answerStep(request);
    throw new LunaError("TENSOR_UNKNOWN", "gone", { details: { digests } });
  });
  const model = new DaemonModel(new LunaLink(peer, () => undefined), info);
  const ops = async () => {
    asked.length = 0;
    await model.forward(inputs);
    return asked.map(({ body }) => body.op);
  };
  expect(await ops()).toEqual(["model_forward"]);
  expect(await ops()).toEqual(["put_tensors", "model_forward"]);
  expect(await ops()).toEqual(["model_forward"]);
  stored.delete(digest);
  expect(await ops()).toEqual(["model_forward", "put_tensors", "model_forward"]);
  stored.clear();
  isStubborn = true;
  await ops();
  expect(asked.at(-1)?.tensors.has("context")).toBe(true);
});

test("text encoding takes the clip strengths; the same warning is said once", async () => {
  const lines: string[] = [];
  const hidden = fromFloat(floatTensor([1, 77, 8]));
  const pooled = fromFloat(floatTensor([1, 8]));
  const tensors = new Map(Object.entries({ hidden, pooled }));
  const { peer, asked } = createPeer(() => ({ tensors, warnings: ["no LoRA"] }));
  const clip = new DaemonClip(new LunaLink(peer, (line) => lines.push(line)), info);
  clip.addLoraByName("a", 1, 0.25);
  const inputs = { encoder: "clip-l", tokens: [Array(77).fill(1)], layer: -2 } as const;
  const outputs = await clip.encode({ ...inputs, isLayerNormed: true });
  await clip.encode({ ...inputs, isLayerNormed: true });
  expect(outputs.projected).toBeUndefined();
  expect(asked[0]?.body).toMatchObject({ layer: -2, loras: [{ name: "a", strength: 0.25 }] });
  expect(asked[0]?.tensors.get("tokens")).toMatchObject({ dtype: "I64", shape: [1, 77] });
  expect(lines.filter((line) => line.includes("Warning"))).toHaveLength(1);
});

test("a lost daemon is followed by the local engine, opened once for all", async () => {
  const daemon = createPeer(() => {
    throw new LunaError("CONNECTION_LOST", "gone");
  });
  const local = createPeer(answerStep);
  let opened = 0;
  const reasons: string[] = [];
  const open = async () => {
    opened++;
    return local.peer;
  };
  const peer = new FallbackPeer(daemon.peer, open, ({ code }) => reasons.push(code));
  const before = peer.era;
  const model = new DaemonModel(new LunaLink(peer, () => undefined), info);
  await Promise.all([model.forward(step()), model.forward(step())]);
  await model.forward(step());
  expect([opened, reasons, daemon.asked.length]).toEqual([1, ["CONNECTION_LOST"], 2]);
  expect(peer.era).not.toBe(before);
});

test("features are the proxy's own and go with each of its steps", async () => {
  const { peer, asked } = createPeer(answerStep);
  const model = new DaemonModel(new LunaLink(peer, () => undefined), info);
  const freeu = { version: 2, b1: 1.3, b2: 1.4, s1: 0.9, s2: 0.2 } as const;
  const patched = model.withFeatures({ freeu });
  const both = patched.withLora({ name: "a", strengthModel: 1, strengthClip: 0 });
  const perturbed = both.withFeatures({ pag: { blocks: ["middle.0"] } }).clone();
  for (const each of [model, both, perturbed]) await each.forward(step());
  expect(asked.map(({ body }) => ("features" in body ? body.features : undefined))).toEqual([
    undefined,
    { freeu },
    { freeu, pag: { blocks: ["middle.0"] } },
  ]);
  expect(perturbed.loras).toHaveLength(1);
});

test("control nets are named; their hint goes once, then by digest", async () => {
  const { peer, asked } = createPeer(answerStep);
  const model = new DaemonModel(new LunaLink(peer, () => undefined), info);
  const hint = floatTensor([1, 3, 64, 64], new Float32Array(3 * 64 * 64).fill(0.5));
  const union = { model: "controlnet/u", hint, strength: 0.5, type: 3, rows: [1] };
  const controls = [{ model: "controlnet/a", hint, strength: 1 }, union];
  for (let i = 0; i < 2; i++) await model.forward({ ...step(), controls });
  const [first, put, second] = asked;
  const { hint: _hint, ...spec } = union;
  expect(first?.body).toMatchObject({ controls: [{ model: "controlnet/a", strength: 1 }, spec] });
  expect([...(first?.tensors.keys() ?? [])]).toContain("hint.1");
  const digest = digestTensor(fromFloat(hint));
  expect([put?.body.op, [...(put?.tensors.keys() ?? [])]]).toEqual(["put_tensors", [digest]]);
  expect(second?.body).toMatchObject({ refs: { "hint.0": digest, "hint.1": digest } });
});
