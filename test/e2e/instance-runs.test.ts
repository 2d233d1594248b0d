/**
 * Runs as their clients see them: every message in order, the cache, conversions, lists and switches.
 * The numbers are those of the cases recorded from ComfyUI 0.18.1 with a logging proxy.
 */
import { afterAll, expect, test } from "vitest";
import { defineNode, output } from "../../src/nodes/index.ts";
import { E, S, startApiTest, typesOf } from "../support/api-test.ts";
import type { Json } from "../support/test-instance.ts";

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

const { here, run, close } = await startApiTest([counted]);
afterAll(close);

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
