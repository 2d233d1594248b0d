import { expect, test } from "vitest";
import { createTestDaemon, TEST_MODEL } from "../../test/support/test-daemon.ts";
import {
  createMemoryTransportPair,
  decodeFrame,
  type EventMessage,
  encodeFrame,
  parseDaemonMessage,
  type WatchEvent,
} from "../protocol/index.ts";
import { fromFloat } from "../tensor/index.ts";
import { WATCH_BUFFER_BYTES_MAX, WATCH_EVENTS_MAX } from "./limits.ts";

type Daemon = Awaited<ReturnType<typeof createTestDaemon>>;

/** A session whose messages can be awaited. */
function connect(daemon: Daemon, name: string) {
  const [near, far] = createMemoryTransportPair();
  let buffered = 0;
  const slow = new Proxy(far, {
    get: (target, key) => {
      if (key === "bufferedBytes") return buffered;
      const value = Reflect.get(target, key);
      return typeof value === "function" ? value.bind(target) : value;
    },
  });
  daemon.core.connect(slow);
  const events: WatchEvent[] = [];
  const messages: EventMessage[] = [];
  const watchers: (() => void)[] = [];
  const answers: unknown[] = [];
  near.onMessage((bytes) => {
    const message = parseDaemonMessage(decodeFrame(bytes).message);
    if (message.type === "event") {
      messages.push(message);
      events.push(...message.events);
    } else answers.push(message);
    for (const watcher of watchers) watcher();
  });
  near.send(encodeFrame({ type: "hello", protocol: 1, client: { name, version: "1", pid: 42 } }));
  const until = (isThere: () => boolean) =>
    new Promise<void>((resolve) => {
      const look = () => isThere() && resolve();
      watchers.push(look);
      look();
    });
  return {
    ...{ near, events, messages, answers, until },
    stall: (bytes: number) => {
      buffered = bytes;
    },
  };
}

function step(id: number) {
  const tensors = new Map([
    ["x", fromFloat({ shape: [1, 4, 8, 8], data: new Float32Array(256) })],
    ["timesteps", fromFloat({ shape: [1], data: new Float32Array([9]) })],
    ["context", fromFloat({ shape: [1, 77, 8], data: new Float32Array(616) })],
  ]);
  const loras = [{ name: "red", strength: 0.5 }];
  return encodeFrame(
    { type: "request", id, op: "model_forward", model: TEST_MODEL, loras },
    tensors,
  );
}

test("a watcher sees figures, sessions, batches with their LoRAs, models and errors", async () => {
  const daemon = await createTestDaemon();
  const watcher = connect(daemon, "page");
  watcher.near.send(encodeFrame({ type: "request", id: 1, op: "watch" }));
  await watcher.until(() => watcher.events.some(({ type }) => type === "status"));
  const worker = connect(daemon, "worker");
  worker.near.send(step(1));
  worker.near.send(encodeFrame({ type: "request", id: 2, op: "unload", model: "nothing" }));
  const kinds = () => new Set<string>(watcher.events.map(({ type }) => type));
  await watcher.until(() => ["session", "batch", "error"].every((type) => kinds().has(type)));
  const batch = watcher.events.find((event) => event.type === "batch");
  const opened = watcher.events.find((event) => event.type === "session");
  expect(opened).toMatchObject({ change: "opened", name: "worker" });
  expect(batch).toMatchObject({ model: TEST_MODEL, component: "unet", rows: 1 });
  expect(batch?.requests).toEqual([
    {
      session: opened?.session,
      rows: 1,
      loras: [{ name: "red.safetensors", strength: 0.5 }],
    },
  ]);
  const error = watcher.events.find((event) => event.type === "error");
  expect(error).toMatchObject({ code: "MODEL_UNKNOWN", op: "unload", name: "worker" });
  watcher.near.send(encodeFrame({ type: "cancel", id: 1 }));
  await watcher.until(() => watcher.answers.length === 2);
  expect(watcher.answers[1]).toMatchObject({ type: "error", id: 1, error: { code: "CANCELLED" } });
  await daemon.close();
});

test("a slow watcher loses the oldest events and is told how many", async () => {
  const daemon = await createTestDaemon();
  const watcher = connect(daemon, "page");
  watcher.near.send(encodeFrame({ type: "request", id: 1, op: "watch" }));
  await watcher.until(() => watcher.events.length > 0);
  watcher.stall(WATCH_BUFFER_BYTES_MAX + 1);
  const event = { type: "model", atMs: 0, change: "loaded", model: "m", bytes: 1 } as const;
  for (let i = 0; i < WATCH_EVENTS_MAX + 10; i++) daemon.core.events.publish(event);
  watcher.stall(0);
  await watcher.until(() => watcher.messages.length > 1);
  const message = watcher.messages[1];
  expect(message?.events).toHaveLength(WATCH_EVENTS_MAX);
  expect(message?.dropped).toBeGreaterThanOrEqual(10);
  await daemon.close();
});
