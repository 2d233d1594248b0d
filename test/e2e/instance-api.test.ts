/**
 * The behaviour that clients of ComfyUI 0.18.1 rely on, case by case as it was recorded from the
 * original with a logging proxy: shapes, order of messages, refusals. E is EmptyImage, S SaveImage.
 */
import { existsSync, readFileSync } from "node:fs";
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { defineNode, output, readPictureFile, readPngText } from "../../src/nodes/index.ts";
import { createTestDaemon, type TestDaemon } from "../support/test-daemon.ts";
import {
  type Json,
  type Listener,
  startTestInstance,
  type TestInstance,
} from "../support/test-instance.ts";

/** The node runs until a test lets it go on, telling its progress. */
const gates = new Map<string, () => void>();
const slow = defineNode({
  name: "Slow",
  displayName: "Slow",
  category: "test",
  inputs: { image: { type: "IMAGE" }, gate: { type: "STRING" } },
  outputs: [output("IMAGE")],
  async run({ image, gate }, { signal, progress }) {
    progress({ value: 1, max: 2 });
    await new Promise<void>((resolve, reject) => {
      gates.set(gate, resolve);
      signal.addEventListener("abort", () => reject(new Error("aborted")));
    });
    progress({ value: 2, max: 2 });
    return { outputs: [image] };
  },
});
let counts = 0;
const counted = defineNode({
  name: "Counted",
  displayName: "Counted",
  category: "test",
  inputs: { image: { type: "IMAGE" } },
  outputs: [output("IMAGE")],
  run({ image }) {
    counts++;
    return { outputs: [image] };
  },
});

let daemon: TestDaemon;
let here: TestInstance;

beforeAll(async () => {
  daemon = await createTestDaemon();
  const { url } = await daemon.listen();
  here = await startTestInstance({ daemonUrl: url, nodes: [slow, counted] });
});
afterAll(async () => {
  await here.close();
  await daemon.close();
});

let colors = 0;
/** A picture no other test has made, so that nothing is cached. */
const E = (changes: Json = {}): Json => ({
  class_type: "EmptyImage",
  inputs: { width: 64, height: 32, batch_size: 1, color: ++colors, ...changes },
});
const S = (from = "1", changes: Json = {}): Json => ({
  class_type: "SaveImage",
  inputs: { images: [from, 0], filename_prefix: "p", ...changes },
});

type Run = Readonly<{ id: string; entry: Json; listener: Listener }>;

let clients = 0;
async function run(prompt: Json, extra: Json = {}): Promise<Run> {
  const client_id = `client-${++clients}`;
  const listener = await here.listen(client_id);
  listener.messages.length = 0;
  const { status, json } = await here.post("/prompt", { prompt, client_id, ...extra });
  expect([status, json.error]).toEqual([200, undefined]);
  await listener.end(json.prompt_id);
  const entry = (await here.get(`/history/${json.prompt_id}`))[json.prompt_id];
  return { id: json.prompt_id, entry, listener };
}

const typesOf = (listener: Listener): string[] =>
  listener.messages.map((m) => {
    if (m.type === "executing" && "data" in m) return `executing ${m.data["node"]}`;
    return m.type;
  });
const errorsOf = (json: Json, node: string): string[] =>
  (json.node_errors[node]?.errors ?? []).map((error: Json) => error.type);

test("01 idle: nothing remains, with and without /api", async () => {
  for (const path of ["/prompt", "/api/prompt"]) {
    expect(await here.get(path)).toEqual({ exec_info: { queue_remaining: 0 } });
  }
  expect(await here.get("/api/queue")).toEqual({ queue_running: [], queue_pending: [] });
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

test("04 a normal run: every message in order, none before the answer", async () => {
  const listener = await here.listen("order");
  listener.messages.length = 0;
  const body = { prompt: { 1: E(), 2: S() }, client_id: "order" };
  const { json } = await here.post("/prompt", body);
  await listener.end(json.prompt_id);
  expect(typesOf(listener)).toEqual([
    "status",
    "status",
    "execution_start",
    "execution_cached",
    "progress_state",
    "executing 1",
    "progress_state",
    "progress_state",
    "executing 2",
    "executed",
    "progress_state",
    "execution_success",
    "status",
    "executing null",
  ]);
  const remaining = listener.of("status").map((s: Json) => s.status.exec_info.queue_remaining);
  expect(remaining).toEqual([1, 1, 0]);
  for (const type of ["execution_start", "execution_cached", "execution_success"]) {
    const [data] = listener.of(type);
    expect(data).toMatchObject({ prompt_id: json.prompt_id, timestamp: expect.any(Number) });
  }
  const executed: Json = listener.of("executed")[0];
  expect(executed).toMatchObject({ node: "2", display_node: "2", prompt_id: json.prompt_id });
  expect(executed.output.images[0]).toMatchObject({ subfolder: "", type: "output" });
  const states: Json = listener.of("progress_state").at(-1);
  expect(states.nodes["2"]).toEqual({
    ...{ value: 1, max: 1, state: "finished", node_id: "2", prompt_id: json.prompt_id },
    ...{ display_node_id: "2", parent_node_id: null, real_node_id: "2" },
  });
  const entry = (await here.get(`/history/${json.prompt_id}`))[json.prompt_id];
  const types = entry.status.messages.map(([type]: [string]) => type);
  expect(types).toEqual(["execution_start", "execution_cached", "execution_success"]);
});

test("05 the body is JSON whatever its type says", async () => {
  for (const type of [
    "application/json",
    "text/plain;charset=UTF-8",
    "application/x-www-form-urlencoded",
  ]) {
    const response = await here.fetch("/api/prompt?clientId=q", {
      method: "POST",
      headers: { "content-type": type, "comfy-user": "me" },
      body: JSON.stringify({ prompt: { 1: E(), 2: S() }, client_id: "types" }),
    });
    expect(response.status).toBe(200);
  }
});

test("06 the history entry has the item, no secrets; an unknown id is {}", async () => {
  const extra_data = { extra_pnginfo: { workflow: { id: "w" } }, auth_token_comfy_org: "secret" };
  const { id, entry, listener } = await run({ 1: E(), 2: S() }, { extra_data });
  const [number, promptId, prompt, extra, outputs] = entry.prompt;
  expect(number).toEqual(expect.any(Number));
  expect(promptId).toBe(id);
  expect(prompt["1"].class_type).toBe("EmptyImage");
  expect(extra).toMatchObject({
    extra_pnginfo: { workflow: { id: "w" } },
    create_time: expect.any(Number),
  });
  expect(extra.client_id).toMatch(/^client-/);
  expect(JSON.stringify(entry)).not.toContain("secret");
  expect(outputs).toEqual(["2"]);
  expect(entry.outputs["2"]).toEqual((listener.of("executed")[0] as Json).output);
  expect(entry.status).toMatchObject({ status_str: "success", completed: true });
  expect(entry.meta).toEqual({
    2: { node_id: "2", display_node: "2", parent_node: null, real_node_id: "2" },
  });
  expect(await here.get("/history/none")).toEqual({});
});

test("07 the same prompt again is cached: executed, same files, no executing node", async () => {
  const prompt = { 1: E(), 2: S() };
  const first = await run(prompt);
  const again = await run(prompt);
  expect((again.listener.of("execution_cached")[0] as Json).nodes).toEqual(["1", "2"]);
  expect(again.entry.outputs).toEqual(first.entry.outputs);
  expect(typesOf(again.listener)).toEqual([
    "status",
    "status",
    "execution_start",
    "execution_cached",
    "executed",
    "progress_state",
    "execution_success",
    "status",
    "executing null",
  ]);
});

test("08 another prefix keeps the picture cached; other ids keep everything", async () => {
  const picture = E();
  await run({ 1: picture, 2: S() });
  const other = await run({ 1: picture, 2: S("1", { filename_prefix: "other" }) });
  expect((other.listener.of("execution_cached")[0] as Json).nodes).toEqual(["1"]);
  const renamed = { "57:8": picture, "x.0": S("57:8", { filename_prefix: "other" }) };
  const { listener } = await run(renamed);
  expect((listener.of("execution_cached")[0] as Json).nodes).toEqual(["57:8", "x.0"]);
});

test("09 scalars are converted, and the history has what ran", async () => {
  const { entry } = await run({ 1: E({ width: "65", height: 32.9 }), 2: S() });
  expect(entry.prompt[2]["1"].inputs).toMatchObject({ width: 65, height: 32 });
});

test("10 prompts that cannot run are refused with ComfyUI's types", async () => {
  const refuse = async (body: Json) => {
    const { status, json } = await here.post("/prompt", body);
    expect(status).toBe(400);
    expect(json.node_errors).toEqual({});
    return json.error;
  };
  expect(await refuse({})).toMatchObject({ type: "no_prompt", extra_info: {} });
  expect(await refuse({ prompt: {} })).toMatchObject({ type: "prompt_no_outputs" });
  expect(await refuse({ prompt: { 1: E() } })).toMatchObject({ type: "prompt_no_outputs" });
  const unknown = { class_type: "Nope", inputs: {}, _meta: { title: "My node" } };
  expect(await refuse({ prompt: { 1: E(), 2: S(), 3: unknown } })).toEqual({
    type: "missing_node_type",
    message: "Node 'My node' not found. The custom node may not be installed.",
    details: "Node ID '#3'",
    extra_info: { node_id: "3", class_type: "Nope", node_title: "My node" },
  });
});

test("11 a missing input is the node's own error", async () => {
  const { status, json } = await here.post("/prompt", {
    prompt: {
      1: { class_type: "EmptyImage", inputs: { height: 1, batch_size: 1, color: 0 } },
      2: S(),
    },
  });
  expect(status).toBe(400);
  expect(json.error).toMatchObject({ type: "prompt_outputs_failed_validation", details: "" });
  expect(json.node_errors).toEqual({
    1: {
      errors: [
        {
          type: "required_input_missing",
          message: "Required input is missing",
          details: "width",
          extra_info: { input_name: "width" },
        },
      ],
      dependent_outputs: ["2"],
      class_type: "EmptyImage",
    },
  });
});

test("12 eight faults, each with its type on the right node", async () => {
  const types = async (prompt: Json, node: string) =>
    errorsOf((await here.post("/prompt", { prompt })).json, node);
  const scale = (crop: unknown) => ({
    class_type: "ImageScale",
    inputs: { image: ["1", 0], upscale_method: "area", width: 8, height: 8, crop },
  });
  const load = { class_type: "LoadImage", inputs: { image: "nope.png" } };
  const latent = {
    class_type: "EmptyLatentImage",
    inputs: { width: 64, height: 64, batch_size: 1 },
  };
  expect(await types({ 1: E(), 2: S("1", { images: ["1"] }) }, "2")).toEqual(["bad_linked_input"]);
  expect(await types({ 1: latent, 2: S() }, "2")).toEqual(["return_type_mismatch"]);
  expect(await types({ 1: E({ width: "abc" }), 2: S() }, "1")).toEqual(["invalid_input_type"]);
  expect(await types({ 1: E({ width: 0 }), 2: S() }, "1")).toEqual(["value_smaller_than_min"]);
  expect(await types({ 1: E({ width: 99999 }), 2: S() }, "1")).toEqual(["value_bigger_than_max"]);
  expect(await types({ 1: E(), 3: scale("zzz"), 2: S("3") }, "3")).toEqual(["value_not_in_list"]);
  expect(await types({ 1: load, 2: S() }, "1")).toEqual(["custom_validation_failed"]);
  expect(await types({ 1: E(), 2: S("99") }, "2")).toEqual(["exception_during_validation"]);
});

test("13 one good output is enough; the bad ones are named", async () => {
  const bad = { class_type: "SaveImage", inputs: { filename_prefix: "p" } };
  const prompt = { 1: E(), 2: S(), 8: bad };
  const { status, json } = await here.post("/prompt", { prompt, client_id: "half" });
  expect(status).toBe(200);
  expect(errorsOf(json, "8")).toEqual(["required_input_missing"]);
  const listener = await here.listen("half");
  const ended = async () => (await here.get(`/history/${json.prompt_id}`))[json.prompt_id];
  while ((await ended()) === undefined) await listener.until(({ type }) => type === "status");
  const entry = await ended();
  expect(Object.keys(entry.outputs)).toEqual(["2"]);
  expect(entry.status.status_str).toBe("success");
});

test("14 id, number and targets of the client's choice", async () => {
  const prompt = { 1: E(), 2: S(), 7: S("1", { filename_prefix: "seven" }) };
  const chosen = { prompt_id: "mine", number: 7, partial_execution_targets: ["7"] };
  const { id, entry } = await run(prompt, chosen);
  expect([id, entry.prompt[0]]).toEqual(["mine", 7]);
  expect(Object.keys(entry.outputs)).toEqual(["7"]);
  const none = await here.post("/prompt", { prompt, partial_execution_targets: [] });
  expect([none.status, none.json.error.type]).toEqual([400, "prompt_no_outputs"]);
});

test("15 a failing node: the error with all fields, and history and job say so", async () => {
  const { id, entry, listener } = await run({ 1: E(), 2: S("1", { filename_prefix: "../evil" }) });
  const [error] = listener.of("execution_error");
  expect(error).toEqual({
    prompt_id: id,
    node_id: "2",
    node_type: "SaveImage",
    executed: ["1"],
    exception_message: expect.stringContaining("../evil"),
    exception_type: "PATH_REFUSED",
    traceback: expect.any(Array),
    current_inputs: { images: [["1", 0]], filename_prefix: ["../evil"] },
    current_outputs: ["1"],
    timestamp: expect.any(Number),
  });
  expect(typesOf(listener).slice(-3)).toEqual(["execution_error", "status", "executing null"]);
  expect(typesOf(listener)).not.toContain("execution_success");
  expect(entry.status).toMatchObject({ status_str: "error", completed: false });
  const job = await here.get(`/api/jobs/${id}`);
  expect(job).toMatchObject({ status: "failed", execution_error: { node_id: "2" } });
});

async function slowPrompt(gate: string): Promise<{ id: string; listener: Listener }> {
  const listener = await here.listen(gate);
  const node = { class_type: "Slow", inputs: { image: ["1", 0], gate } };
  const prompt = { 1: E(), s: node, 2: S("s") };
  const { json } = await here.post("/prompt", { prompt, client_id: gate });
  await listener.until(({ type, data }) => type === "progress" && data["value"] === 1);
  return { id: json.prompt_id, listener };
}

test("16 the queue: order, front, delete and clear while one runs", async () => {
  const { id, listener } = await slowPrompt("queue");
  const post = async (extra: Json) =>
    (await here.post("/prompt", { prompt: { 1: E(), 2: S() }, ...extra })).json.prompt_id;
  const [first, second] = [await post({}), await post({})];
  const front = await post({ front: true });
  const queue = await here.get("/queue");
  expect(queue.queue_running.map((item: Json[]) => [item.length, item[1]])).toEqual([[5, id]]);
  const sorted = queue.queue_pending.sort((a: Json, b: Json) => a[0] - b[0]);
  expect(sorted.map((item: Json) => item[1])).toEqual([front, first, second]);
  expect((await here.get("/prompt")).exec_info.queue_remaining).toBe(4);
  await here.post("/queue", { delete: [second, id] });
  await here.post("/api/queue", { clear: true });
  expect((await here.get("/queue")).queue_pending).toEqual([]);
  expect((await here.get("/queue")).queue_running.length).toBe(1);
  const late = await here.listen("queue");
  expect(late.of("status")[0]).toMatchObject({ sid: "queue" });
  await late.until(({ type, data }) => type === "executing" && data["node"] === "s");
  gates.get("queue")?.();
  await late.end(id);
  expect(await here.get(`/history/${second}`)).toEqual({});
  expect(listener.of("execution_success")).toEqual([]); // The newer socket of this id hears it.
});

test("17 interrupting another prompt does nothing; an empty body stops the one that runs", async () => {
  const { id, listener } = await slowPrompt("stop");
  expect((await here.post("/interrupt", { prompt_id: "other" })).status).toBe(200);
  expect((await here.get("/queue")).queue_running.length).toBe(1);
  expect((await here.post("/api/interrupt", "")).status).toBe(200);
  await listener.end(id);
  expect(listener.of("execution_interrupted")).toEqual([
    {
      ...{ prompt_id: id, node_id: "s", node_type: "Slow", executed: ["1"] },
      timestamp: expect.any(Number),
    },
  ]);
  const entry = (await here.get(`/history/${id}`))[id];
  expect(entry.status).toMatchObject({ status_str: "error", completed: false });
  expect((await here.get(`/api/jobs/${id}`)).status).toBe("cancelled");
});

/** A small picture made by the instance itself. */
async function picture(changes: Json = {}): Promise<Buffer> {
  const { entry } = await run({ 1: E(changes), 2: S() });
  return readFileSync(join(here.folders.output, entry.outputs["2"].images[0].filename));
}

async function upload(bytes: Buffer, fields: Record<string, string> = {}, name = "u.png") {
  const form = new FormData();
  form.set("image", new File([new Uint8Array(bytes)], name));
  for (const [key, value] of Object.entries(fields)) form.set(key, value);
  const response = await here.fetch("/upload/image", { method: "POST", body: form });
  const text = await response.text();
  return { status: response.status, json: text === "" ? {} : JSON.parse(text) };
}

test("18 uploads: same name, counted up, overwritten, in a subfolder, refused", async () => {
  const [one, two] = [await picture(), await picture()];
  expect((await upload(one)).json).toEqual({ name: "u.png", subfolder: "", type: "input" });
  expect((await upload(one)).json.name).toBe("u.png");
  expect((await upload(two)).json.name).toBe("u (1).png");
  expect((await upload(two, { overwrite: "true" })).json.name).toBe("u.png");
  expect((await upload(one, { subfolder: "s/x" })).json).toMatchObject({ subfolder: "s/x" });
  expect((await upload(one, { subfolder: "../.." })).status).toBe(400);
  const empty = await here.fetch("/upload/image", { method: "POST", body: new FormData() });
  expect(empty.status).toBe(400);
  const load = { class_type: "LoadImage", inputs: { image: "s/x/u.png" } };
  expect((await run({ 1: load, 2: S() })).entry.status.completed).toBe(true);
});

test("19 /view: found, refused, previews and channels", async () => {
  await writeFile(join(here.folders.output, "v.png"), await picture());
  const get = (query: string) => here.fetch(`/view?${query}`);
  const good = await get("filename=v.png&type=output&rand=1");
  expect([good.status, good.headers.get("content-type")]).toEqual([200, "image/png"]);
  expect(good.headers.get("content-disposition")).toBe('filename="v.png"');
  const etag = good.headers.get("etag") ?? "";
  const cached = await here.fetch("/view?filename=v.png", { headers: { "if-none-match": etag } });
  expect(cached.status).toBe(304);
  const part = await here.fetch("/view?filename=v.png", { headers: { range: "bytes=1-3" } });
  expect([part.status, await part.text()]).toEqual([206, "PNG"]);
  expect((await get("filename=v.png")).status).toBe(200);
  expect((await get("filename=v.png&type=input")).status).toBe(404);
  expect((await get("filename=v.png&type=bogus")).status).toBe(400);
  expect((await get("filename=../v.png")).status).toBe(400);
  expect((await get("filename=v.png&subfolder=../..")).status).toBe(403);
  for (const channel of ["rgba", "rgb", "a"]) {
    const reply = await get(`filename=v.png&channel=${channel}`);
    expect([reply.status, reply.headers.get("content-type")]).toEqual([200, "image/png"]);
  }
  for (const [query, type] of [
    ["preview=webp;90", "image/webp"],
    ["preview=jpeg", "image/jpeg"],
    ["preview=jpeg;50&channel=rgb", "image/jpeg"],
    ["preview=jpeg&channel=a", "image/webp"],
    ["preview=bmp", "image/webp"],
  ]) {
    const reply = await get(`filename=v.png&${query}`);
    expect([query, reply.status, reply.headers.get("content-type")]).toEqual([query, 200, type]);
    const small = await readPictureFile(new Uint8Array(await reply.arrayBuffer()), "small");
    const whole = await readPictureFile(await readFile(join(here.folders.output, "v.png")), "v");
    expect([small.width, small.height]).toEqual([whole.width, whole.height]);
  }
});

test("20 a saved picture holds the prompt, then what came along, in ASCII", async () => {
  const extra_data = { extra_pnginfo: { workflow: { é: 1.5 }, other: ["é"] } };
  const prompt = { 1: E({ width: "64" }), 2: S("1", { filename_prefix: "é" }) };
  const { entry } = await run(prompt, { extra_data });
  const [image] = entry.outputs["2"].images;
  const chunks = readPngText(readFileSync(join(here.folders.output, image.filename)));
  expect(chunks.map(([key]) => key)).toEqual(["prompt", "workflow", "other"]);
  expect(chunks[1]?.[1]).toBe('{"\\u00e9": 1.5}');
  expect(chunks[0]?.[1]).toContain('"width": 64,');
  expect(chunks[0]?.[1]).toContain('"filename_prefix": "\\u00e9"');
});

test("21 names: counters, tokens, batch numbers, previews", async () => {
  const names = async (prompt: Json) =>
    ((await run(prompt)).entry.outputs["2"].images as Json[]).map((image) => image.filename);
  const save = (prefix: string) => S("1", { filename_prefix: prefix });
  const picture = () => E({ batch_size: 2 });
  expect(await names({ 1: picture(), 2: save("n") })).toEqual(["n_00001_.png", "n_00002_.png"]);
  expect(await names({ 1: E(), 2: save("n") })).toEqual(["n_00003_.png"]);
  const year = new Date().getFullYear();
  const tokens = await names({ 1: E(), 2: save("w%width%x%height%_%year%_%date:yyyy%") });
  expect(tokens).toEqual([`w64x32_${year}_%date:yyyy%_00001_.png`]);
  expect(await names({ 1: picture(), 2: save("k%batch_num%") })).toEqual([
    "k0_00001_.png",
    "k1_00002_.png",
  ]);
  const preview = { class_type: "PreviewImage", inputs: { images: ["1", 0] } };
  const [name] = await names({ 1: E(), 2: preview });
  expect(name).toMatch(/^ComfyUI_temp_[a-z]{5}_00001_\.png$/);
  expect(existsSync(join(here.folders.temp, name))).toBe(true);
});

test("22 integers keep every digit", async () => {
  const text =
    '{"prompt":{"1":{"class_type":"PrimitiveInt","inputs":{"value":9007199254740993}},"2":{"class_type":"PreviewAny","inputs":{"source":["1",0]}}},"client_id":"digits","prompt_id":"digits"}';
  const listener = await here.listen("digits");
  await here.post("/prompt", text);
  await listener.end("digits");
  expect((listener.of("executed")[0] as Json).output).toEqual({ text: ["9007199254740993"] });
  const history = await (await here.fetch("/history/digits")).text();
  expect(history).toContain('"value": 9007199254740993');
  const info = await (await here.fetch("/object_info/KSampler")).text();
  expect(info).toContain('"max":18446744073709551615');
});

test("23 lists run a node once an item; a switch runs one side alone", async () => {
  const rebatch = { class_type: "RebatchImages", inputs: { images: ["1", 0], batch_size: 1 } };
  const lists = await run({ 1: E({ batch_size: 3 }), r: rebatch, 2: S("r") });
  expect(lists.entry.outputs["2"].images.length).toBe(3);
  expect(typesOf(lists.listener).filter((type) => type === "executing 2").length).toBe(1);
  const before = counts;
  const count = (from: string) => ({ class_type: "Counted", inputs: { image: [from, 0] } });
  const choose = {
    class_type: "ComfySwitchNode",
    inputs: { switch: true, on_false: ["f", 0], on_true: ["t", 0] },
  };
  const prompt = { 1: E(), 3: E(), f: count("1"), t: count("3"), c: choose, 2: S("c") };
  const { listener } = await run(prompt);
  expect(typesOf(listener)).not.toContain("executing f");
  expect(typesOf(listener)).toContain("executing t");
  expect(counts - before).toBe(1);
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
  const { jobs, pagination } = await here.get("/api/jobs?limit=2&status=completed");
  expect(jobs.length).toBe(2);
  expect(jobs[0]).toMatchObject({ status: "completed", create_time: expect.any(Number) });
  expect(pagination).toMatchObject({ offset: 0, limit: 2, has_more: true });
  expect((await here.fetch("/api/jobs?limit=0")).status).toBe(400);
  const { system, devices } = await here.get("/system_stats");
  expect(system.comfyui_version).toBe("0.18.1");
  expect(devices[0]).toMatchObject({ name: expect.stringContaining("Luna daemon"), index: 0 });
  const foreign = await here.fetch("/prompt", { headers: { origin: "https://evil.example" } });
  expect(foreign.status).toBe(403);
});
