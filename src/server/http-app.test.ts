import { afterEach, expect, test } from "vitest";
import { createTestDaemon, TEST_MODEL } from "../../test/support/test-daemon.ts";
import { createHttpApp } from "./http-app.ts";
import { Metrics } from "./metrics.ts";
import type { TryIt } from "./try-it.ts";

const owned: { close: () => Promise<unknown> }[] = [];
afterEach(async () => {
  for (const thing of owned.splice(0).reverse()) await thing.close();
});

async function start(options: { token?: string; tryIt?: TryIt } = {}) {
  const { token, tryIt } = options;
  const daemon = await createTestDaemon(token === undefined ? {} : { tokens: [{ token }] });
  const app = createHttpApp(daemon.core, { tryIt, allowedHosts: ["luna.example"] });
  owned.push(daemon, app);
  const get = (url: string, headers: Record<string, string> = {}) =>
    app.inject({ url, headers: { host: "localhost:19283", ...headers } });
  return { daemon, app, get };
}

test("alive and ready are two things", async () => {
  const { daemon, get } = await start({ token: "secret" });
  expect((await get("/ready")).json()).toEqual({ status: "ready" });
  daemon.core.close();
  expect((await get("/health")).statusCode).toBe(200);
  const ready = await get("/ready");
  expect([ready.statusCode, ready.json().status]).toEqual([503, "not ready"]);
});

test("an engine that is down is not ready", async () => {
  const { daemon, get } = await start();
  const info = await daemon.engine.info();
  daemon.engine.info = async () => ({ ...info, pid: 0 });
  expect((await get("/ready")).json().reason).toBe("The engine is not running.");
});

test("the page loads without the token, its figures do not", async () => {
  const { get } = await start({ token: "secret" });
  const page = await get("/");
  expect(page.headers["content-type"]).toContain("text/html");
  expect(page.headers["content-security-policy"]).toContain("default-src 'none'");
  expect((await get("/dashboard/app.js")).statusCode).toBe(200);
  for (const path of ["/metrics", "/v1/status", "/v1/openapi.json", "/dashboard/../metrics"]) {
    expect((await get(path)).statusCode, path).toBe(401);
    const shown = { authorization: "Bearer secret" };
    if (!path.includes("..")) expect((await get(path, shown)).statusCode, path).toBe(200);
  }
});

test("foreign pages get nothing, the own one also behind TLS", async () => {
  const { get } = await start();
  for (const path of ["/", "/metrics", "/health"]) {
    expect((await get(path, { origin: "http://evil.example" })).statusCode, path).toBe(403);
    const tls = { host: "luna.example", origin: "https://luna.example" };
    expect((await get(path, tls)).statusCode, path).toBe(200);
  }
});

test("metrics count what happens, under names as Prometheus has them", async () => {
  const daemon = await createTestDaemon();
  owned.push(daemon);
  const { events } = daemon.core;
  const metrics = new Metrics(events, daemon.core.status);
  const atMs = 0;
  events.publish({ type: "run", op: "model_forward", queueMs: 4, engineMs: 20, totalMs: 25 });
  const requests = ["a", "a", "b"].map((session) => ({ session, rows: 2, loras: [] }));
  events.publish({
    ...{ type: "batch", atMs, model: TEST_MODEL, component: "unet" },
    ...{ rows: 6, engineMs: 20, requests },
  });
  const failed = { session: "a", name: "a", op: "preload", message: "" };
  events.publish({ type: "error", atMs, code: "MODEL_UNKNOWN", ...failed });
  const text = await metrics.text();
  expect(text).toContain("luna_steps_total 1");
  expect(text).toContain('luna_rows_total{component="unet"} 6');
  expect(text).toContain('luna_batch_clients_sum{component="unet"} 2');
  expect(text).toContain('luna_errors_total{code="MODEL_UNKNOWN",op="preload"} 1');
  expect(text).toMatch(/luna_overhead_seconds_sum\{op="model_forward"\} 0\.001/);
  for (const [, name = "", kind] of text.matchAll(/^# TYPE (\S+) (\S+)$/gm)) {
    expect(name).toMatch(/^luna_[a-z_]+$/);
    expect(name.endsWith("_total"), name).toBe(kind === "counter");
    expect(name, name).not.toMatch(/_(ms|mib|kb)(_|$)/);
  }
});

/** "GET /health" of the tree that fastify prints: four characters of indent a level. */
function routesOf(tree: string): string[] {
  const prefixes: string[] = [];
  return tree.split("\n").flatMap((line) => {
    const [, indent = "", name = "", methods] =
      /^([│├└─\s]*)(.*?)(?: \(([A-Z, ]+)\))?$/.exec(line) ?? [];
    const depth = Math.floor(indent.length / 4);
    if (depth === 0) return [];
    prefixes[depth] = (prefixes[depth - 1] ?? "") + name;
    const wanted = methods?.split(", ").filter((method) => method !== "HEAD") ?? [];
    return wanted.map((method) => `${method} ${prefixes[depth]}`);
  });
}

test("the OpenAPI document has the routes that there are", async () => {
  const { app, get } = await start({ tryIt: async () => undefined });
  await app.ready();
  const actual = routesOf(app.printRoutes({ commonPrefix: false })).map((route) =>
    route.replace(/\/dashboard\/.+/, "/dashboard/{file}"),
  );
  const document = (await get("/v1/openapi.json")).json();
  const written = Object.entries<object>(document.paths).flatMap(([path, operations]) =>
    Object.keys(operations).map((method) => `${method.toUpperCase()} ${path}`),
  );
  expect(new Set(written)).toEqual(new Set(actual));
  const text = JSON.stringify(document);
  for (const [, name = ""] of text.matchAll(/#\/components\/schemas\/(\w+)/g)) {
    expect(Object.keys(document.components.schemas)).toContain(name);
  }
});

test("a picture comes as lines, and a wrong request is refused", async () => {
  const { app } = await start({
    tryIt: async ({ steps }, { onEvent }) => {
      onEvent({ type: "progress", step: 1, steps });
      onEvent({ type: "picture", png: "AA==" });
    },
  });
  const body = {
    ...{ name: "a", model: "b", prompt: "", negative: "", loras: [], seed: 1, steps: 2, cfg: 3 },
    ...{ width: 128, height: 128 },
  };
  const post = (payload: object) =>
    app.inject({ method: "POST", url: "/v1/try", headers: { host: "localhost" }, payload });
  const lines = (await post(body)).body.trim().split("\n");
  expect(lines.map((line) => JSON.parse(line).type)).toEqual(["progress", "picture"]);
  const refused = await post({ ...body, width: 4096 });
  expect([refused.statusCode, refused.json().error.code]).toEqual([400, "REQUEST_INVALID"]);
});
