/** Connections that misbehave, and many of them; the nets are the arithmetic of fake-engine.ts. */
import { connect } from "node:net";
import { afterEach, expect, test } from "vitest";
import { WebSocket } from "ws";
import { openModels } from "../../src/client/index.ts";
import { createLogger } from "../../src/kernel/index.ts";
import { decodeFrame, encodeFrame, joinFrame, type Message } from "../../src/protocol/index.ts";
import { floatTensor, fromFloat } from "../../src/tensor/index.ts";
import { createTestDaemon, TEST_MODEL } from "../support/test-daemon.ts";

const owned: { close: () => Promise<unknown> }[] = [];
afterEach(async () => {
  for (const thing of owned.splice(0).reverse()) await thing.close();
});

async function start(socketLimits: { bufferedBytesMax?: number; heartbeatMs?: number } = {}) {
  const events: Record<string, unknown>[] = [];
  const logger = createLogger((line) => events.push(JSON.parse(line)), "info");
  const daemon = await createTestDaemon({ logger });
  owned.push(daemon);
  const { url, port } = await daemon.listen({ socketLimits });
  const model = async (name = "honest") => {
    const client = await openModels({ mode: "force_daemon", url, client: { name, version: "1" } });
    owned.push(client);
    const opened = (await client.registerModelByPath({ name: TEST_MODEL })).model;
    if (opened === undefined) throw new Error("The test checkpoint has a UNet.");
    return opened;
  };
  const closings = () => events.filter(({ event }) => event === "session.closed");
  return { daemon, url, port, model, closings };
}

const step = (side = 8, rows = 1) => ({
  x: floatTensor([rows, 4, side, side]),
  timesteps: new Float32Array(rows),
  context: floatTensor([rows, 77, 8]),
});

const frame = (message: Message, tensors?: Parameters<typeof encodeFrame>[1]) =>
  joinFrame(encodeFrame(message, tensors));
const hello = frame({ type: "hello", protocol: 1, client: { name: "raw", version: "1" } });
const forward = (id: number, side = 8, rows = 1) => {
  const { x, timesteps, context } = step(side, rows);
  const tensors = new Map([
    ["x", fromFloat(x)],
    ["timesteps", fromFloat({ shape: [rows], data: timesteps })],
    ["context", fromFloat(context)],
  ]);
  return frame({ type: "request", id, op: "model_forward", model: TEST_MODEL }, tensors);
};

/** An open socket that has been greeted. */
function openRaw(url: string, options = {}): Promise<WebSocket> {
  const socket = new WebSocket(url, options);
  owned.push({ close: async () => socket.terminate() });
  socket.on("error", () => undefined);
  return new Promise((resolve) => {
    socket.once("message", () => resolve(socket));
    socket.once("open", () => socket.send(hello));
  });
}

test("who does not read is cut off at its limit, and the log says why", async () => {
  const { url, model, closings } = await start({ bufferedBytesMax: 2 ** 20 });
  const socket = await openRaw(url);
  const honest = await model();
  socket.pause();
  for (let id = 1; id <= 60; id++) socket.send(forward(id, 128, 4));
  await expect.poll(() => closings().length, { timeout: 30_000 }).toBe(1);
  expect(closings()[0]).toMatchObject({ name: "raw", reason: expect.stringMatching(/too slowly/) });
  expect((await honest.forward(step())).data[0]).toBe(0);
});

test("a peer that vanished without closing is noticed while an answer is due, an idle one is let be", async () => {
  const { daemon, url, model, closings } = await start({ heartbeatMs: 40 });
  const idle = await openRaw(url, { autoPong: false });
  const gone = await openRaw(url, { autoPong: false });
  const honest = await model();
  daemon.engine.hold();
  const waiting = honest.forward(step());
  gone.send(forward(1));
  await expect.poll(() => closings().length, { timeout: 10_000 }).toBe(1);
  expect(closings()[0]).toMatchObject({ reason: expect.stringMatching(/not answered 3 pings/) });
  daemon.engine.release();
  expect((await waiting).data[0]).toBe(0);
  expect(idle.readyState).toBe(idle.OPEN);
});

test("1,000 idle and 64 active connections", async () => {
  const { daemon, url, model } = await start();
  for (let batch = 0; batch < 10; batch++) {
    await Promise.all(Array.from({ length: 100 }, () => openRaw(url)));
  }
  const models = await Promise.all(Array.from({ length: 64 }, (_, n) => model(`active ${n}`)));
  const outs = await Promise.all(
    models.map(async (each, index) => {
      for (let n = 0; n < 3; n++) await each.forward(step());
      return (await each.forward({ ...step(), timesteps: [1000 * index] })).data[0];
    }),
  );
  expect(outs).toEqual(models.map((_, index) => index));
  expect((await daemon.core.status()).sessions).toHaveLength(1064);
});

test("garbage at every byte of a request gets one clear error or an answer, nothing else", async () => {
  const { url, model } = await start();
  const honest = await model();
  const socket = await openRaw(url);
  const valid = frame({ type: "request", id: 7, op: "unload", model: TEST_MODEL });
  const codes = new Set<string>();
  let answers = 0;
  const done = new Promise<void>((resolve) => {
    socket.on("message", (data: Uint8Array) => {
      const message = decodeFrame(data).message as { type: string; error?: { code: string } };
      codes.add(message.error?.code ?? message.type);
      if (++answers === valid.length) resolve();
    });
  });
  for (let at = 0; at < valid.length; at++) {
    const garbage = valid.slice();
    garbage[at] = (valid[at] ?? 0) ^ (1 + ((at * 37) % 255));
    socket.send(garbage);
  }
  await done;
  const expected = [
    "FRAME_MALFORMED",
    "REQUEST_INVALID",
    "MODEL_UNKNOWN",
    "PATH_REFUSED",
    "result",
  ];
  for (const each of codes) expect(expected).toContain(each);
  expect(socket.readyState).toBe(socket.OPEN);
  expect((await honest.forward(step())).data[0]).toBe(0);
});

test("garbage at every byte of a connection's beginning ends that connection only", async () => {
  const { port, model } = await start();
  const honest = await model();
  const head = [
    "GET /v1/ws HTTP/1.1",
    `Host: 127.0.0.1:${port}`,
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
  ].join("\r\n");
  // One masked binary frame with a mask of zeros: the hello.
  const prefix = Buffer.from([0x82, 0x80 | 126, hello.length >> 8, hello.length & 255, 0, 0, 0, 0]);
  const valid = Buffer.concat([Buffer.from(`${head}\r\n\r\n`), prefix, hello]);
  const attempt = (at: number) =>
    new Promise<void>((resolve) => {
      const bytes = Buffer.from(valid);
      bytes[at] = (valid[at] ?? 0) ^ (1 + ((at * 53) % 255));
      const socket = connect(port, "127.0.0.1", () => socket.end(bytes));
      socket.on("error", () => undefined).on("close", () => resolve());
      socket.setTimeout(2000, () => socket.destroy());
      socket.resume();
    });
  for (let begin = 0; begin < valid.length; begin += 50) {
    const places = Array.from({ length: Math.min(50, valid.length - begin) }, (_, n) => begin + n);
    await Promise.all(places.map(attempt));
  }
  expect((await honest.forward(step())).data[0]).toBe(0);
});
