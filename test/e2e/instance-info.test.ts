/**
 * What is asked before a prompt and beside it: handshake, node definitions, settings, user files, jobs.
 * The numbers are those of the cases recorded from ComfyUI 0.18.1 with a logging proxy.
 */
import { mkdir, symlink, utimes, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { E, S, startApiTest } from "../support/api-test.ts";
import { type Json, startTestInstance, type TestInstance } from "../support/test-instance.ts";

const { here, run, close } = await startApiTest();
afterAll(close);

test("01 idle: nothing remains, with and without /api", async () => {
  for (const path of ["/prompt", "/api/prompt"]) {
    expect(await here.get(path)).toEqual({ exec_info: { queue_remaining: 0 } });
  }
  expect(await here.get("/api/queue")).toEqual({ queue_running: [], queue_pending: [] });
});

test("an instance that has done nothing yet shows the daemon's device, and without one its own", async () => {
  const alone = await startTestInstance();
  const names = async (instance: TestInstance) =>
    (await instance.get("/system_stats")).devices.map(({ name }: Json) => name);
  expect(await names(alone)).toEqual([expect.stringContaining("no daemon yet")]);
  expect(await names(here)).toEqual([expect.stringContaining("Luna daemon")]);
  await alone.close();
});

test("02 the first message is the status with the client's id", async () => {
  const named = await here.listen("x");
  expect(named.of("status")[0]).toEqual({
    status: { exec_info: { queue_remaining: 0 } },
    sid: "x",
  });
  const unnamed = await here.listen();
  expect(unnamed.of("status")[0]?.["sid"]).toMatch(/^[0-9a-f]{32}$/);
});

test("03 feature flags are answered as the first message, and only then", async () => {
  const first = await here.listen("f1", { supports_preview_metadata: true });
  expect(first.of("feature_flags")).toEqual([await here.get("/features")]);
  const second = await here.listen("f2");
  second.socket.send("no json");
  second.socket.send(JSON.stringify({ type: "hello" }));
  second.socket.send(JSON.stringify({ type: "feature_flags", data: {} }));
  await run({ 1: E(), 2: S() }); // Its status messages come after an answer would have.
  expect(second.of("feature_flags")).toEqual([]);
});

test("24 object_info: all, one, and an unknown class as {}", async () => {
  const all = await here.get("/object_info");
  expect(await here.get("/api/object_info/KSampler")).toEqual({ KSampler: all.KSampler });
  for (const [name, info] of Object.entries<Json>(all)) {
    expect(info).toMatchObject({
      name,
      ...{ input: { required: expect.any(Object) }, input_order: { required: expect.any(Array) } },
      ...{
        output: expect.any(Array),
        output_name: expect.any(Array),
        category: expect.any(String),
      },
      ...{ output_node: expect.any(Boolean), python_module: expect.any(String) },
    });
  }
  expect(all.CheckpointLoaderSimple.input.required.ckpt_name[0]).toEqual(["test.safetensors"]);
  expect(all.KSampler.input.required.sampler_name[0]).toContain("dpmpp_2m");
  const unknown = await here.fetch("/object_info/Crystools");
  expect([unknown.status, await unknown.json()]).toEqual([200, {}]);
});

test("25 what the front end keeps, asks and is refused", async () => {
  expect(await here.get("/users")).toEqual({ storage: "server", migrated: true });
  expect(await here.get("/settings/Nothing")).toBe(null);
  expect((await here.post("/settings", { a: 1 })).status).toBe(200);
  expect((await here.post("/api/settings/b", '"text"')).status).toBe(200);
  expect(await here.get("/settings")).toMatchObject({ a: 1, b: "text" });
  expect((await here.fetch("/userdata?dir=missing")).status).toBe(404);
  expect((await here.fetch("/userdata")).status).toBe(400);
  const file = "/userdata/workflows%2Fa.json";
  expect((await here.post(file, { x: 1 })).json).toBe("workflows/a.json");
  expect((await here.post(`${file}?overwrite=false`, {})).status).toBe(409);
  expect(await here.get(file)).toEqual({ x: 1 });
  expect(await here.get("/userdata?dir=workflows&recurse=true&full_info=true")).toEqual([
    { path: "a.json", size: 7, modified: expect.any(Number), created: expect.any(Number) },
  ]);
  expect((await here.post(`${file}/move/workflows%2Fb.json`, {})).json).toBe("workflows/b.json");
  const gone = await here.fetch("/userdata/workflows%2Fb.json", { method: "DELETE" });
  expect(gone.status).toBe(204);
  expect((await here.fetch("/userdata/workflows%2Fb.json")).status).toBe(404);
  expect((await here.fetch("/userdata/..%2F..%2Fetc%2Fpasswd")).status).toBe(403);
  for (const path of ["/extensions", "/embeddings"]) expect(await here.get(path)).toEqual([]);
  for (const path of ["/i18n", "/global_subgraphs"]) expect(await here.get(path)).toEqual({});
  for (const prefix of ["j", "k", "l"])
    await run({ 1: E(), 2: S("1", { filename_prefix: prefix }) });
  const { jobs, pagination } = await here.get("/api/jobs?limit=2&status=completed");
  expect(jobs.length).toBe(2);
  expect(jobs[0]).toMatchObject({ status: "completed", create_time: expect.any(Number) });
  expect(pagination).toMatchObject({ offset: 0, limit: 2, has_more: true });
  expect((await here.fetch("/api/jobs?limit=0")).status).toBe(400);
  const { system, devices } = await here.get("/system_stats");
  expect(system.comfyui_version).toBe("0.18.1");
  expect(devices).toMatchObject([{ name: expect.stringContaining("Luna daemon"), index: 0 }]);
  const foreign = await here.fetch("/prompt", { headers: { origin: "https://evil.example" } });
  expect(foreign.status).toBe(403);
});

test("/v2/userdata: everything below a folder, folders first, paths from the user's own folder", async () => {
  const root = join(here.folders.root, "user", "workflows");
  await mkdir(join(root, "Zoo", "inner"), { recursive: true });
  await mkdir(join(root, "ape"));
  for (const name of ["b.json", "A.json", "Zoo/c.json"]) {
    await writeFile(join(root, name), "12345");
    await utimes(join(root, name), 1_700_000_000.5, 1_700_000_000.5);
  }
  const folder = (name: string, path: string) => ({ name, path, type: "directory" });
  const file = (name: string, path: string) => ({
    ...{ name, path, type: "file", size: 5, modified: 1_700_000_000.5 },
  });
  expect(await here.get("/api/v2/userdata?path=workflows")).toEqual([
    folder("ape", "workflows/ape"),
    folder("inner", "workflows/Zoo/inner"),
    folder("Zoo", "workflows/Zoo"),
    file("A.json", "workflows/A.json"),
    file("b.json", "workflows/b.json"),
    file("c.json", "workflows/Zoo/c.json"),
  ]);
  expect(await here.get("/v2/userdata?path=workflows%252FZoo")).toEqual([
    folder("inner", "workflows/Zoo/inner"),
    file("c.json", "workflows/Zoo/c.json"),
  ]);
  const names = (await here.get("/v2/userdata")).map(({ path }: Json) => path);
  expect(names).toEqual(expect.arrayContaining(["subgraphs", "workflows", "user.css"]));
  const statusOf = async (path: string) => (await here.fetch(`/v2/userdata?path=${path}`)).status;
  expect(await statusOf("missing")).toBe(404);
  expect(await statusOf("user.css")).toBe(400);
  expect(await statusOf("../..")).toBe(400);
  await symlink(join(root, "nowhere"), join(root, "ape", "link"));
  expect(await here.get("/v2/userdata?path=workflows/ape")).toEqual([
    { name: "link", path: "workflows/ape/link", type: "file" },
  ]);
});
