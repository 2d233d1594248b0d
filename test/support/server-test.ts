/** What the files test/e2e/server-*.test.ts share: daemons and clients that are closed after each test. */
import { afterEach } from "vitest";
import { WebSocket } from "ws";
import { type DaemonModel, type LunaClient, openModels } from "../../src/client/index.ts";
import { LunaError } from "../../src/kernel/index.ts";
import { type FloatTensor, floatTensor } from "../../src/tensor/index.ts";
import { createTestDaemon, type TestDaemon } from "./test-daemon.ts";

/** Closed after the test, the last one first. */
export const owned: { close: () => Promise<unknown> }[] = [];
afterEach(async () => {
  for (const thing of owned.splice(0).reverse()) await thing.close();
});

/** A daemon that does not listen yet. */
export async function start(options?: Parameters<typeof createTestDaemon>[0]): Promise<TestDaemon> {
  const daemon = await createTestDaemon(options);
  owned.push(daemon);
  return daemon;
}

/** A client that takes the daemon at `url` and no other engine. */
export async function client(url: string, name = "test", extra = {}): Promise<LunaClient> {
  const options = { mode: "force_daemon", url, client: { name, version: "1" }, ...extra } as const;
  const opened = await openModels(options);
  owned.push(opened);
  return opened;
}

export async function modelOf(opened: LunaClient): Promise<DaemonModel> {
  const { model } = await opened.registerModelByPath({ name: "test.safetensors" });
  if (!model) throw new Error("The test checkpoint has a UNet.");
  return model;
}

export const filled = (shape: number[], value: number): FloatTensor => {
  const tensor = floatTensor(shape);
  tensor.data.fill(value);
  return tensor;
};
/** FakeEngine: out = 0.1 x (1 + sum of strengths) + 0.001 timestep, so that out is `value` again. */
export const step = (value = 1, rows = 1) => ({
  x: filled([rows, 4, 8, 8], 10 * value),
  timesteps: new Float32Array(rows),
  context: filled([rows, 154, 8], value / 2),
});
/** "done", or what went wrong. */
export const code = (promise: Promise<unknown>) =>
  promise.then(
    () => "done",
    (error) => (error instanceof LunaError ? error.code : String(error)),
  );

/** A socket that has said nothing yet. */
export function openRaw(url: string): Promise<WebSocket> {
  const socket = new WebSocket(url);
  owned.push({ close: async () => socket.terminate() });
  socket.on("error", () => undefined);
  return new Promise((resolve) => socket.once("open", () => resolve(socket)));
}
