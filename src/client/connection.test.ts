import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { LunaError } from "../kernel/index.ts";
import {
  createMemoryTransportPair,
  type DaemonMessage,
  decodeFrame,
  encodeFrame,
  type Transport,
} from "../protocol/index.ts";
import { Connection } from "./connection.ts";
import { CONNECT_MS_MAX } from "./limits.ts";

beforeEach(() => {
  vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout", "performance"] });
});
afterEach(() => {
  vi.useRealTimers();
});

type Heard = { type: string; id?: number; op?: string; protocol?: number };

/** A daemon whose every word a test says; the link may be cut and come back. */
function createScriptedDaemon() {
  const heard: Heard[] = [];
  let link: Transport | undefined;
  let isAway = false;
  let greeting: DaemonMessage = {
    ...{ type: "welcome", protocol: 1, session: "s" },
    daemon: { version: "1", pid: 7 },
  };
  const say = (message: DaemonMessage) => link?.send(encodeFrame(message));
  const open = async () => {
    if (isAway) throw new LunaError("DAEMON_NOT_RUNNING", "away");
    const [here, there] = createMemoryTransportPair();
    link = there;
    there.onMessage((bytes) => {
      const message = decodeFrame(bytes).message as Heard;
      heard.push(message);
      if (message.type === "hello") say(greeting);
    });
    return here;
  };
  return {
    heard,
    open,
    say,
    answer: (id: number) => say({ type: "result", id, data: {} }),
    setAway: (value: boolean) => {
      isAway = value;
    },
    setGreeting: (message: DaemonMessage) => {
      greeting = message;
    },
    cut: () => link?.close("cut"),
    requests: () => heard.filter(({ type }) => type === "request"),
  };
}

const client = { name: "t", version: "1" };
const flush = () => new Promise<void>((resolve) => setImmediate(resolve));
const code = (promise: Promise<unknown>) =>
  promise.then(
    () => "done",
    (error) => (error instanceof LunaError ? error.code : String(error)),
  );

test("requests are numbered and answered in any order", async () => {
  const daemon = createScriptedDaemon();
  const connection = await Connection.open({ open: daemon.open, client });
  expect(connection.daemon).toEqual({ version: "1", pid: 7, session: "s" });
  const [first, second] = [connection.request({ op: "ping" }), connection.request({ op: "ping" })];
  await flush();
  expect(daemon.requests().map(({ id }) => id)).toEqual([1, 2]);
  daemon.answer(2);
  daemon.answer(99);
  expect((await second).warnings).toEqual([]);
  daemon.say({
    ...{ type: "error", id: 1 },
    error: { code: "QUEUE_FULL", message: "later", retryable: true },
  });
  expect(await code(first)).toBe("QUEUE_FULL");
});

test("an abort and a deadline send a cancel and reject at once", async () => {
  const daemon = createScriptedDaemon();
  const connection = await Connection.open({ open: daemon.open, client });
  const abort = new AbortController();
  const aborted = code(connection.request({ op: "ping" }, undefined, { signal: abort.signal }));
  const late = code(connection.request({ op: "ping" }, undefined, { deadlineMs: 50 }));
  abort.abort();
  expect(await aborted).toBe("CANCELLED");
  vi.advanceTimersByTime(50);
  expect(await late).toBe("DEADLINE_EXCEEDED");
  await flush();
  expect(daemon.heard.filter(({ type }) => type === "cancel").map(({ id }) => id)).toEqual([1, 2]);
  expect(await code(connection.request({ op: "ping" }, undefined, { signal: abort.signal }))).toBe(
    "CANCELLED",
  );
});

test("after a loss what was in flight is sent again, in another era", async () => {
  const daemon = createScriptedDaemon();
  const connection = await Connection.open({ open: daemon.open, client });
  const before = connection.era;
  const inFlight = connection.request({ op: "ping" });
  await flush();
  daemon.setAway(true);
  daemon.cut();
  await flush();
  await vi.advanceTimersByTimeAsync(500);
  const meanwhile = connection.request({ op: "status" });
  meanwhile.catch(() => undefined);
  daemon.setAway(false);
  await vi.advanceTimersByTimeAsync(2000);
  await flush();
  expect(connection.era).not.toBe(before);
  expect(daemon.requests().map(({ op }) => op)).toEqual(["ping", "ping", "status"]);
  daemon.answer(1);
  expect((await inFlight).data).toEqual({});
});

test("a daemon that says it stops is waited for like one that is lost", async () => {
  const daemon = createScriptedDaemon();
  const connection = await Connection.open({ open: daemon.open, client });
  const inFlight = connection.request({ op: "ping" });
  await flush();
  daemon.say({
    ...{ type: "error", id: 1 },
    error: { code: "SHUTTING_DOWN", message: "bye", retryable: true },
  });
  daemon.cut();
  await flush();
  await vi.advanceTimersByTimeAsync(100);
  await flush();
  daemon.answer(1);
  expect(await code(inFlight)).toBe("done");
});

test("a daemon that stays away loses the connection for good", async () => {
  const daemon = createScriptedDaemon();
  const lines: string[] = [];
  const connection = await Connection.open({
    ...{ open: daemon.open, client, graceMs: 1000, say: (line: string) => lines.push(line) },
  });
  const inFlight = code(connection.request({ op: "ping" }));
  await flush();
  daemon.setAway(true);
  daemon.cut();
  await flush();
  await vi.advanceTimersByTimeAsync(5000);
  expect(await inFlight).toBe("CONNECTION_LOST");
  expect(connection.isLost).toBe(true);
  expect(await code(connection.request({ op: "ping" }))).toBe("CONNECTION_LOST");
  expect(lines).toEqual(["[LunaClient] Connection to the daemon lost (cut)"]);
});

test("a daemon of another version ends the connection without more attempts", async () => {
  const daemon = createScriptedDaemon();
  const connection = await Connection.open({ open: daemon.open, client });
  const inFlight = code(connection.request({ op: "ping" }));
  await flush();
  daemon.setGreeting({
    type: "error",
    error: { code: "PROTOCOL_VERSION", message: "1, not 2", retryable: false },
  });
  daemon.cut();
  await flush();
  await vi.advanceTimersByTimeAsync(100);
  await flush();
  expect(await inFlight).toBe("PROTOCOL_VERSION");
  expect(await code(Connection.open({ open: daemon.open, client }))).toBe("PROTOCOL_VERSION");
});

test("a peer that never greets is no daemon", async () => {
  const [here] = createMemoryTransportPair();
  const opening = code(Connection.open({ open: async () => here, client }));
  await flush();
  vi.advanceTimersByTime(CONNECT_MS_MAX);
  expect(await opening).toBe("DAEMON_NOT_RUNNING");
});

test("closing rejects what is in flight", async () => {
  const daemon = createScriptedDaemon();
  const connection = await Connection.open({ open: daemon.open, client });
  const inFlight = code(connection.request({ op: "ping" }));
  await connection.close();
  expect(await inFlight).toBe("CONNECTION_LOST");
});
