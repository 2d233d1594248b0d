import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { createTestDaemon, TEST_MODEL, type TestDaemon } from "../../test/support/test-daemon.ts";
import type { TokenGrant } from "../kernel/index.ts";
import {
  createMemoryTransportPair,
  decodeFrame,
  encodeFrame,
  joinFrame,
  type Message,
  type Transport,
} from "../protocol/index.ts";
import { fromFloat, type Tensor } from "../tensor/index.ts";
import { OPEN_GRANT } from "./allowances.ts";
import { HANDSHAKE_MS_MAX, PENDING_PER_SESSION_MAX } from "./limits.ts";

let daemon: TestDaemon;
beforeEach(async () => {
  daemon = await createTestDaemon({ tokens: [{ token: "secret" }] });
});
afterEach(async () => {
  vi.useRealTimers();
  await daemon.close();
});

type Answer = Record<string, unknown> & { id?: number };

/** A client that speaks frames: what it was answered so far, and a wait for more. */
function connect(options: { grant?: TokenGrant } = { grant: OPEN_GRANT }) {
  const [here, there] = createMemoryTransportPair();
  const answers: Answer[] = [];
  let notice = (): void => undefined;
  here.onMessage((bytes) => {
    answers.push(decodeFrame(bytes).message as Answer);
    notice();
  });
  const closed = new Promise<string>((resolve) => here.onClose(resolve));
  daemon.core.connect(there, options);
  const until = async (count: number) => {
    while (answers.length < count) {
      await new Promise<void>((resolve) => {
        notice = resolve;
      });
    }
    return answers;
  };
  return { transport: here, answers, until, closed };
}

const say = (transport: Transport, message: Message, tensors?: Map<string, Tensor>) =>
  transport.send(encodeFrame(message, tensors));
const hello: Message = { type: "hello", protocol: 1, client: { name: "t", version: "1" } };
const request = (id: number): Message => ({
  ...{ type: "request", id, op: "model_forward", model: TEST_MODEL },
});
function stepTensors(): Map<string, Tensor> {
  const shapes = Object.entries({ x: [1, 4, 8, 8], timesteps: [1], context: [1, 77, 8] });
  return new Map(
    shapes.map(([name, shape]) => {
      const data = new Float32Array(shape.reduce((a, b) => a * b, 1));
      return [name, fromFloat({ shape, data })];
    }),
  );
}
const sayStep = (transport: Transport, id: number) => say(transport, request(id), stepTensors());

test("who says nothing is sent away", async () => {
  vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
  const { until, closed } = connect();
  vi.advanceTimersByTime(HANDSHAKE_MS_MAX);
  expect(await until(1)).toMatchObject([{ error: { code: "DEADLINE_EXCEEDED" } }]);
  expect(await closed).toBe("DEADLINE_EXCEEDED");
});

/** Has shown nothing yet. */
function stranger() {
  return connect({});
}

test("the token may be shown in the hello, and a wrong one closes", async () => {
  const wrong = stranger();
  say(wrong.transport, { ...hello, token: "secre" });
  expect(await wrong.closed).toBe("UNAUTHORIZED");
  const right = stranger();
  say(right.transport, { ...hello, token: "secret" });
  expect(await right.until(1)).toMatchObject([{ type: "welcome", protocol: 1 }]);
});

test("clients of one token share its limits; other tokens have their own", async () => {
  const limited = { token: "l", connections: 2, requests: 3, rows: 5 };
  await daemon.close();
  daemon = await createTestDaemon({ tokens: [limited, { token: "free" }] });
  const [a, b, c] = [connect({ grant: limited }), connect({ grant: limited }), stranger()];
  say(a.transport, hello);
  say(b.transport, hello);
  await Promise.all([a.until(1), b.until(1)]);
  say(c.transport, { ...hello, token: "l" });
  expect(await c.closed).toBe("QUEUE_FULL");
  const free = stranger();
  say(free.transport, { ...hello, token: "free" });
  expect(await free.until(1)).toMatchObject([{ type: "welcome" }]);
  // Watching is a request in flight until it is cancelled.
  for (const id of [1, 2]) say(a.transport, { type: "request", id, op: "watch" });
  for (const id of [3, 4]) say(b.transport, { type: "request", id, op: "watch" });
  const refused = () => b.answers.filter(({ type }) => type === "error");
  while (refused().length === 0) await b.until(b.answers.length + 1);
  expect(refused()).toMatchObject([{ id: 4, error: { code: "QUEUE_FULL" } }]);
  // What is over gives its room back, a connection too.
  a.transport.close("done");
  await new Promise(setImmediate);
  const d = stranger();
  say(d.transport, { ...hello, token: "l" });
  expect(await d.until(1)).toMatchObject([{ type: "welcome" }]);
});

test("a bad frame is answered and the session goes on", async () => {
  const { transport, until } = connect();
  say(transport, hello);
  transport.send([new Uint8Array([1, 2, 3])]);
  say(transport, hello);
  say(transport, { type: "request", id: 4, op: "unload", model: "nothing" });
  say(transport, { type: "request", id: 5, op: "ping" });
  const answers = await until(5);
  expect(answers.map(({ id }) => id)).toEqual(expect.arrayContaining([undefined, 4, 5]));
  expect(answers.slice(0, 3)).toMatchObject([
    { type: "welcome" },
    { type: "error", error: { code: "FRAME_MALFORMED" } },
    { type: "error", error: { code: "REQUEST_INVALID" } },
  ]);
  expect(answers.find(({ id }) => id === 4)).toMatchObject({ error: { code: "MODEL_UNKNOWN" } });
});

test("an id in flight is not taken twice, and only so many may be in flight", async () => {
  const { transport, until, answers } = connect();
  say(transport, hello);
  daemon.engine.hold();
  for (let id = 0; id < PENDING_PER_SESSION_MAX; id++) sayStep(transport, id);
  sayStep(transport, 0);
  sayStep(transport, 99);
  await until(3);
  expect(answers.slice(1)).toMatchObject([
    { id: 0, error: { code: "REQUEST_INVALID" } },
    { id: 99, error: { code: "QUEUE_FULL" } },
  ]);
  daemon.engine.release();
  await until(3 + PENDING_PER_SESSION_MAX);
  expect(answers.filter(({ type }) => type === "result")).toHaveLength(PENDING_PER_SESSION_MAX);
});

test("a cancelled request is answered once, with CANCELLED", async () => {
  const { transport, until } = connect();
  say(transport, hello);
  daemon.engine.hold();
  sayStep(transport, 1);
  await daemon.engine.begun(1);
  say(transport, { type: "cancel", id: 1 });
  say(transport, { type: "cancel", id: 77 });
  expect((await until(2))[1]).toMatchObject({ id: 1, error: { code: "CANCELLED" } });
  daemon.engine.release();
  say(transport, { type: "request", id: 2, op: "ping" });
  expect(await until(3)).toHaveLength(3);
});

test("a digest the daemon does not have is named in the error", async () => {
  const { transport, until } = connect();
  say(transport, hello);
  const unknown = `sha256:${"0".repeat(64)}`;
  const tensors = stepTensors();
  tensors.delete("context");
  say(transport, { ...request(1), refs: { context: unknown } } as Message, tensors);
  expect((await until(2))[1]).toMatchObject({
    id: 1,
    error: { code: "TENSOR_UNKNOWN", retryable: true, details: { digests: [unknown] } },
  });
});

test("closing tells every session and fails what waits", async () => {
  const { transport, until, closed } = connect();
  say(transport, hello);
  await until(1);
  daemon.core.close();
  expect(await closed).toBe("SHUTTING_DOWN");
  expect((await until(2))[1]).toMatchObject({ error: { code: "SHUTTING_DOWN" } });
  const late = connect();
  expect(await late.closed).toBe("SHUTTING_DOWN");
});

test("the first frame is small", async () => {
  const { transport, closed } = connect();
  transport.send([joinFrame(encodeFrame(hello)), new Uint8Array(65536)]);
  expect(await closed).toBe("LIMIT_EXCEEDED");
});
