/** Clients and a daemon over real sockets; the nets are the arithmetic of fake-engine.ts. */
import { expect, test } from "vitest";
import { Connection, openModels, openWebSocket } from "../../src/client/index.ts";
import { createMemoryTransportPair } from "../../src/protocol/index.ts";
import { type FloatTensor, fromFloat, toFloat } from "../../src/tensor/index.ts";
import { client, code, filled, modelOf, owned, start, step } from "../support/server-test.ts";
import { TEST_MODEL } from "../support/test-daemon.ts";

test("a model is registered, stepped, encoded and decoded over a WebSocket", async () => {
  const daemon = await start();
  const { url } = await daemon.listen();
  const opened = await client(url, "painter");
  const parts = await opened.registerCheckpoint({ name: "test" });
  expect(parts.info).toMatchObject({ id: TEST_MODEL, family: "sd1", unet: { contextDim: 8 } });
  const out = await parts.model?.forward(step(3));
  expect(out?.shape).toEqual([1, 4, 8, 8]);
  expect(out?.data[0]).toBe(3);
  const tokens = [Array.from({ length: 77 }, () => 49407)];
  const text = { encoder: "clip-l", tokens, layer: -1, isLayerNormed: true } as const;
  const vector = new Float32Array(8).fill(1);
  const encoded = await parts.clip?.encode({
    ...text,
    embeddings: [{ row: 0, column: 3, vector }],
  });
  expect(encoded?.hidden.shape).toEqual([1, 77, 8]);
  const image = await parts.vae?.decode(filled([1, 4, 8, 8], 0));
  expect(image?.shape).toEqual([1, 3, 64, 64]);
  const latent = await parts.vae?.encode(filled([1, 3, 64, 64], 0), {
    tile: { size: 64, overlap: 32 },
  });
  expect(latent?.shape).toEqual([1, 4, 8, 8]);
  expect(daemon.engine.runs.at(-1)?.items[0]?.tile).toEqual({ size: 8, overlap: 2 });
  const status = await opened.status();
  expect(status.models.find(({ id }) => id === TEST_MODEL)).toMatchObject({ copies: 1, users: 0 });
  expect(status.sessions[0]).toMatchObject({ name: "painter", steps: 1, pending: 1 });
  expect(await opened.list()).toMatchObject({ loras: expect.arrayContaining(["red.safetensors"]) });
  expect(opened.steps.steps[0]).toMatchObject({ batchRows: 1 });
});

test("many clients with different LoRAs share a batch, each gets its own result", async () => {
  const daemon = await start();
  const { url } = await daemon.listen();
  const models = await Promise.all(
    Array.from({ length: 6 }, async (_, index) => modelOf(await client(url, `client-${index}`))),
  );
  for (const [index, model] of models.entries()) {
    model.addLora(index % 2 ? "red.safetensors" : "blue.safetensors", index / 10);
    if (index > 3) model.addLora("red.safetensors", 1);
  }
  daemon.engine.hold();
  const first = (await modelOf(await client(url, "early"))).forward(step(7));
  await daemon.engine.begun(1);
  const rest = models.map((model, index) => model.forward(step(index + 1)));
  while ((await daemon.core.status()).queue.depth < models.length);
  daemon.engine.release();
  expect((await first).data[0]).toBe(7);
  const results = (await Promise.all(rest)).map(({ data }) => data[5]);
  const expected = models.map((_, i) => Math.fround((i + 1) * (1 + i / 10 + (i > 3 ? 1 : 0))));
  for (const [at, value] of results.entries()) expect(value).toBeCloseTo(expected[at] ?? 0, 5);
  expect(daemon.engine.runs.map(({ items }) => items.length)).toEqual([1, 6]);
  const { batches } = await daemon.core.status();
  expect(batches).toMatchObject({ total: 2, rows: { 1: 1, 6: 1 }, clients: { 1: 1, 6: 1 } });
});

test("a broken LoRA fails its own request only; a missing one is skipped with one warning", async () => {
  const daemon = await start();
  const { url } = await daemon.listen();
  const lines: string[] = [];
  const good = await modelOf(await client(url));
  const bad = (await modelOf(await client(url))).withLora({
    ...{ name: "broken.safetensors", strengthModel: 1, strengthClip: 0 },
  });
  const missing = (
    await modelOf(await client(url, "test", { say: (line: string) => lines.push(line) }))
  ).withLora({ name: "nowhere", strengthModel: 1, strengthClip: 1 });
  const answers = [good.forward(step()), code(bad.forward(step())), missing.forward(step(5))];
  expect(await answers[1]).toBe("LORA_MALFORMED");
  expect(await answers[0]).toMatchObject({ shape: [1, 4, 8, 8] });
  expect(((await answers[2]) as FloatTensor).data[0]).toBe(5);
  await missing.forward(step());
  expect(lines).toEqual(["[LunaDaemon] Warning: LoRA 'nowhere' not found, skipped."]);
});

test("cancelled and disconnected clients leave the queue, the others go on", async () => {
  const daemon = await start();
  const { url } = await daemon.listen();
  const [one, two, three] = await Promise.all(["1", "2", "3"].map((name) => client(url, name)));
  if (!one || !two || !three) throw new Error("Three clients were opened.");
  const [a, b, c] = [await modelOf(one), await modelOf(two), await modelOf(three)];
  daemon.engine.hold();
  const running = a.forward(step(1));
  await daemon.engine.begun(1);
  const abort = new AbortController();
  const cancelled = code(b.forward(step(2), { signal: abort.signal }));
  const late = code(b.forward(step(2), { deadlineMs: 1 }));
  const gone = code(c.forward(step(3)));
  while ((await daemon.core.status()).queue.depth < 2);
  abort.abort();
  expect(await cancelled).toBe("CANCELLED");
  expect(await late).toBe("DEADLINE_EXCEEDED");
  await three.close();
  expect(await gone).toBe("CONNECTION_LOST");
  while ((await daemon.core.status()).queue.depth > 0);
  daemon.engine.release();
  expect((await running).data[0]).toBe(1);
  expect(daemon.engine.runs.length).toBe(1);
  expect((await b.forward(step(4))).data[0]).toBe(4);
});

test("tensors that repeat travel once, and again when the daemon forgot them", async () => {
  const daemon = await start({ tensorBytesMax: 12_000 });
  const { url } = await daemon.listen();
  const model = await modelOf(await client(url));
  const inputs = [step(1), step(2), step(3)];
  for (let round = 0; round < 4; round++) {
    for (const [index, input] of inputs.entries()) {
      expect((await model.forward(input)).data[0]).toBe(index + 1);
    }
  }
  // 4,928 bytes each: two fit, so each step finds its context forgotten by the two before it.
  expect((await daemon.core.status()).tensorStore).toMatchObject({ entries: 2, bytes: 9856 });
  const contexts = daemon.engine.runs.map(({ items }) => items[0]?.tensors.get("context"));
  expect(contexts.map((tensor) => tensor && toFloat(tensor).data[0])).toEqual(
    Array.from({ length: 12 }, (_, run) => ((run % 3) + 1) / 2),
  );
});

test("a tensor larger than the store is computed with all the same", async () => {
  const daemon = await start({ tensorBytesMax: 1000 });
  const model = await modelOf(await client((await daemon.listen()).url));
  const input = step(2);
  for (let round = 0; round < 3; round++) expect((await model.forward(input)).data[0]).toBe(2);
});

test("LoRA factors are put once and named by digest, and put again when forgotten", async () => {
  const daemon = await start();
  const opened = await client((await daemon.listen()).url);
  const factors = new Map([
    ["unet.input_blocks.1.1.proj_in.down", fromFloat(filled([4, 32], 1))],
    ["unet.input_blocks.1.1.proj_in.up", fromFloat(filled([4, 32], 1))],
  ]);
  const name = await opened.putLora(factors);
  const model = (await modelOf(opened)).withLora({ name, strengthModel: 0.5, strengthClip: 1 });
  expect((await model.forward(step(2))).data[0]).toBe(3);
  const [lora] = daemon.engine.runs[0]?.items[0]?.loras ?? [];
  expect(lora?.source).toMatchObject({ type: "factors", digest: `${name}/unet` });
  expect(await code(opened.putLora(new Map([["unet.a.down", fromFloat(filled([1, 1], 1))]])))).toBe(
    "LORA_MALFORMED",
  );
});

test("a daemon that restarts is found again and in-flight steps are answered", async () => {
  const first = await start();
  const listening = await first.listen();
  const { port } = listening;
  const opened = await client(listening.url, "patient");
  const model = await modelOf(opened);
  const input = step(2);
  await model.forward(input);
  await model.forward(input);
  first.engine.hold();
  const inFlight = model.forward(input);
  await first.engine.begun(3);
  await listening.close();
  const second = await start();
  await second.listen({ port });
  expect((await inFlight).data[0]).toBe(2);
  expect((await model.forward(input)).data[0]).toBe(2);
});

test("without a daemon: force_daemon says so, auto goes local, also when it dies in a run", async () => {
  const lines: string[] = [];
  const say = (line: string) => lines.push(line);
  const away = "ws://127.0.0.1:9";
  const identity = { client: { name: "t", version: "1" }, say };
  const forced = openModels({ mode: "force_daemon", url: away, ...identity });
  await expect(forced).rejects.toMatchObject({
    code: "DAEMON_NOT_RUNNING",
    message: "Daemon is not running. Start it with: npx luna serve",
  });
  const own = await start();
  const local = () =>
    Connection.open({
      ...identity,
      open: async () => {
        const [here, there] = createMemoryTransportPair();
        own.core.connect(there);
        return here;
      },
    });
  const alone = await openModels({ mode: "auto", url: away, local, ...identity });
  owned.push(alone);
  expect(alone.isDaemon).toBe(false);
  expect((await (await modelOf(alone)).forward(step(4))).data[0]).toBe(4);
  expect(lines).toEqual(["[LunaClient] Warning: Daemon is not running, using the local engine."]);

  const daemon = await start();
  const listening = await daemon.listen();
  const url = listening.url;
  const mixed = await openModels({ mode: "auto", url, local, graceMs: 100, ...identity });
  owned.push(mixed);
  const model = await modelOf(mixed);
  expect(mixed.isDaemon).toBe(true);
  daemon.engine.hold();
  const inFlight = model.forward(step(5));
  await daemon.engine.begun(1);
  await listening.close();
  expect((await inFlight).data[0]).toBe(5);
  expect(mixed.isDaemon).toBe(false);
  expect(own.engine.runs.length).toBe(2);
});

test("a UNet sent as tensors becomes a model on the daemon's disk", async () => {
  const daemon = await start();
  const { url } = await daemon.listen();
  const opened = await client(url);
  const weights = [
    ["input_blocks.0.0.weight", fromFloat(filled([4, 4, 3, 3], 1))],
    ["out.2.weight", fromFloat(filled([4, 4, 3, 3], 2))],
  ] as const;
  const { info, model } = await opened.registerModel(weights);
  expect(info.id).toMatch(/^diffusion_models\/sha256-[0-9a-f]{64}\.safetensors$/);
  expect((await model?.forward(step(3)))?.data[0]).toBe(3);
  const again = await opened.registerModel([...weights].reverse());
  expect(again.info.id).toBe(info.id);
  const raw = await Connection.open({
    open: () => openWebSocket(url),
    client: { name: "t", version: "1" },
  });
  owned.push(raw);
  const late = { op: "register_model", upload: "u", offset: 5, last: true } as const;
  expect(await code(raw.request(late, new Map(weights)))).toBe("REQUEST_INVALID");
});
