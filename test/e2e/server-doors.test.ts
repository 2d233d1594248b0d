/** Who may enter the daemon and by which door, and what it says to frames that are none. */
import { join } from "node:path";
import { expect, test } from "vitest";
import { WebSocket } from "ws";
import { Connection, openWebSocket } from "../../src/client/index.ts";
import { decodeFrame, encodeFrame, joinFrame } from "../../src/protocol/index.ts";
import { fromFloat } from "../../src/tensor/index.ts";
import { client, code, modelOf, openRaw, owned, start, step } from "../support/server-test.ts";
import { TEST_MODEL } from "../support/test-daemon.ts";

test("thousands of hostile frames get one error each and hurt nobody else", async () => {
  const daemon = await start();
  const { url } = await daemon.listen();
  const model = await modelOf(await client(url));
  const socket = await openRaw(url);
  socket.send(joinFrame(hello()));
  await nextMessage(socket);
  const valid = joinFrame(
    encodeFrame({ type: "request", id: 1, op: "ping" }, new Map([["x", fromFloat(step().x)]])),
  );
  const frames = hostileFrames(valid, 3000);
  let answers = 0;
  const codes = new Set<string>();
  const done = new Promise<void>((resolve) => {
    socket.on("message", (data: Uint8Array) => {
      const message = decodeFrame(data).message as { type: string; error?: { code: string } };
      codes.add(message.error?.code ?? message.type);
      if (++answers === frames.length) resolve();
    });
  });
  const undisturbed = (async () => {
    for (let round = 0; round < 50; round++) await model.forward(step(round));
  })();
  for (const frame of frames) socket.send(frame);
  await Promise.all([done, undisturbed]);
  const expected = ["FRAME_MALFORMED", "REQUEST_INVALID", "LIMIT_EXCEEDED", "result"];
  for (const each of codes) expect(expected).toContain(each);
  expect(socket.readyState).toBe(socket.OPEN);
  socket.send(valid);
  expect(decodeFrame(await nextMessage(socket)).message).toMatchObject({ type: "result", id: 1 });
  socket.close();
});

test("a WebSocket that breaks the protocol closes only itself", async () => {
  const daemon = await start();
  const { url } = await daemon.listen();
  const model = await modelOf(await client(url));
  const socket = await openRaw(url);
  const closed = new Promise((resolve) => socket.once("close", resolve));
  // @ts-expect-error The private TCP socket under the WebSocket, to write a reserved opcode.
  socket._socket.write(Buffer.from([0xff, 0xff, 0xff, 0xff, 0xff]));
  await closed;
  expect((await model.forward(step(1))).data[0]).toBe(1);
});

test("the version is refused with both named, other first frames too", async () => {
  const daemon = await start();
  const { url } = await daemon.listen();
  const answers = [
    { type: "hello", protocol: 2, client: { name: "new", version: "9" } },
    { type: "request", id: 1, op: "ping" },
    { type: "hello", protocol: 1 },
  ].map(async (message) => {
    const socket = await openRaw(url);
    const closed = new Promise((resolve) => socket.once("close", resolve));
    // @ts-expect-error Deliberately not a message of this version.
    socket.send(joinFrame(encodeFrame(message)));
    const answer = decodeFrame(await nextMessage(socket)).message;
    await closed;
    return answer;
  });
  expect(await Promise.all(answers)).toMatchObject([
    { error: { code: "PROTOCOL_VERSION", details: { client: 2, daemon: 1 } } },
    { error: { code: "REQUEST_INVALID" } },
    { error: { code: "REQUEST_INVALID" } },
  ]);
});

test("a token is wanted on every way in, and other addresses want a token", async () => {
  const open = await start();
  expect(await code(open.listen({ host: "0.0.0.0" }))).toBe("CONFIG_INVALID");
  const daemon = await start({ tokens: [{ token: "secret" }] });
  const { url, port } = await daemon.listen({ host: "0.0.0.0" });
  const here = url.replace("0.0.0.0", "127.0.0.1");
  expect(await code(client(here))).toBe("UNAUTHORIZED");
  expect(await code(client(here, "t", { token: "wrong" }))).toBe("UNAUTHORIZED");
  expect(await (await client(here, "t", { token: "secret" })).ping()).toBeGreaterThan(0);
  const byHello = Connection.open({
    open: () => openWebSocket(here),
    client: { name: "t", version: "1" },
    token: "secret",
  });
  owned.push(await byHello);
  const get = (path: string, headers = {}) =>
    fetch(`http://127.0.0.1:${port}${path}`, { headers }).then(({ status }) => status);
  expect(await get("/health")).toBe(200);
  expect(await get("/v1/status")).toBe(401);
  expect(await get("/v1/status", { authorization: "Bearer secret" })).toBe(200);
  expect(await get("/v1/status", { authorization: "Bearer secrets" })).toBe(401);
});

test("browser pages and foreign host names are refused, for HTTP and WebSockets", async () => {
  const daemon = await start();
  const { url, port } = await daemon.listen({ allowedHosts: ["gpu.lan"] });
  const knock = (headers: Record<string, string>) =>
    new Promise<number | undefined>((resolve) => {
      const socket = new WebSocket(url, { headers });
      socket.once("unexpected-response", (_, response) => resolve(response.statusCode));
      socket.once("open", () => resolve(101));
      socket.on("error", () => undefined);
      owned.push({ close: async () => socket.terminate() });
    });
  expect(await knock({})).toBe(101);
  expect(await knock({ origin: `http://127.0.0.1:${port}` })).toBe(101);
  expect(await knock({ host: "gpu.lan:1" })).toBe(101);
  expect(await knock({ origin: "https://evil.example" })).toBe(403);
  expect(await knock({ origin: "null" })).toBe(403);
  expect(await knock({ host: "evil.example:19283", origin: "http://evil.example:19283" })).toBe(
    403,
  );
  const page = await fetch(`http://127.0.0.1:${port}/v1/status`, {
    headers: { origin: "https://evil.example" },
  });
  expect(page.status).toBe(403);
  expect(await page.json()).toMatchObject({ error: { code: "ORIGIN_REFUSED" } });
});

test.skipIf(process.platform === "win32")("the same daemon serves a Unix socket", async () => {
  const daemon = await start();
  const socketPath = join(daemon.folder, "luna.sock");
  await daemon.listen({ socketPath });
  const opened = await client(`ws+unix:${socketPath}:/v1/ws`);
  expect((await (await modelOf(opened)).forward(step(2))).data[0]).toBe(2);
  const other = await start();
  expect(await code(other.listen({ socketPath }))).toBe("CONFIG_INVALID");
});

test("HTTP tells health, models and status, and answers other paths clearly", async () => {
  const daemon = await start();
  const { port } = await daemon.listen();
  const get = async (path: string) =>
    (await fetch(`http://127.0.0.1:${port}${path}`)).json() as Promise<Record<string, unknown>>;
  expect(await get("/health")).toEqual({ status: "ok", version: "0.0.0", pid: process.pid });
  expect(await get("/v1/models")).toMatchObject({ models: [{ id: TEST_MODEL, copies: 0 }] });
  expect(await get("/v1/status")).toMatchObject({ daemon: { pid: process.pid }, sessions: [] });
  expect(await get("/nowhere")).toMatchObject({ error: { code: "REQUEST_INVALID" } });
});

const hello = () =>
  encodeFrame({ type: "hello", protocol: 1, client: { name: "raw", version: "1" } });

function nextMessage(socket: WebSocket): Promise<Uint8Array> {
  return new Promise((resolve) => socket.once("message", resolve));
}

/** Frames cut, stretched, with bytes changed, and messages that are no messages; the same each time. */
function hostileFrames(valid: Uint8Array, count: number): Uint8Array[] {
  let state = 12345;
  const random = (below: number) => {
    state = (state * 1103515245 + 12345) % 2 ** 31;
    return state % below;
  };
  const messages = [
    "null",
    "[]",
    "{}",
    '{"type":"request"}',
    '{"type":"request","id":-1,"op":"ping"}',
  ];
  return Array.from({ length: count }, (_, index) => {
    if (index % 4 === 0) return valid.slice(0, random(valid.byteLength));
    if (index % 4 === 1) return Uint8Array.from({ length: random(200) }, () => random(256));
    if (index % 4 === 2) {
      const text = messages[random(messages.length)] ?? "null";
      return joinFrame(encodeFrame(JSON.parse(text)));
    }
    const changed = valid.slice();
    // The header alone: a changed tensor value is no error.
    for (let n = 0; n < 3; n++) changed[random(150)] = random(256);
    return changed;
  });
}
