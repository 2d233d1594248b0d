/**
 * Prompts that cannot run, or not wholly: what is said of which node, and what a failure leaves.
 * The numbers are those of the cases recorded from ComfyUI 0.18.1 with a logging proxy.
 */
import { afterAll, expect, test } from "vitest";
import { E, errorsOf, S, startApiTest, typesOf } from "../support/api-test.ts";
import type { Json } from "../support/test-instance.ts";

const { here, run, close } = await startApiTest();
afterAll(close);

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
