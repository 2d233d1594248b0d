/** Against ComfyUI: goldens of test/reference/workflow.py, faulty prompts and what it says of them. */
import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { FakeServices } from "../../test/support/fake-models.ts";
import { NODE_DEFINITIONS } from "../nodes/index.ts";
import {
  type NodeErrors,
  parsePrompt,
  promptToJson,
  toPythonJson,
  validatePrompt,
} from "./index.ts";
import { isJsonObject, type Json } from "./json.ts";

type Fault = { type: string; details: string };
type Case = {
  name: string;
  prompt: string;
  after: string;
  valid: boolean;
  error: Fault | null;
  outputs: string[];
  nodeErrors: Record<string, { errors: Fault[]; dependent_outputs: string[] }>;
};
const cases: Case[] = JSON.parse(
  readFileSync(new URL("../../test/fixtures/goldens/workflow.json", import.meta.url), "utf8"),
);

/** As a client would read it: numbers and objects of plain JSON, tooltips and tracebacks left out. */
function plain(value: unknown): unknown {
  if (isJsonObject(value as Json)) return plain(Object.fromEntries(value as Map<string, Json>));
  if (typeof value === "bigint") return Number(value);
  if (Array.isArray(value)) return value.map(plain);
  if (typeof value !== "object" || value === null) return value;
  const kept = Object.entries(value).filter(
    ([key]) => key !== "traceback" && key !== "input_config",
  );
  return Object.fromEntries(kept.map(([key, item]) => [key, plain(item)]));
}

function ordered(nodeErrors: NodeErrors): unknown {
  const entries = Object.entries(nodeErrors).map(([id, entry]) => {
    const key = ({ type, details }: Fault) => `${type} ${details}`;
    const errors = [...entry.errors].sort((a, b) => (key(a) < key(b) ? -1 : 1));
    return [id, { ...entry, errors, dependent_outputs: [...entry.dependent_outputs].sort() }];
  });
  return plain(Object.fromEntries(entries));
}

describe("validation says what ComfyUI says", () => {
  test.each(cases)("$name", async (golden) => {
    const options = { definitions: NODE_DEFINITIONS, services: new FakeServices() };
    const made = await validatePrompt(parsePrompt(golden.prompt), options);
    expect(plain(made.error ?? null)).toEqual(golden.error);
    expect(ordered(made.nodeErrors)).toEqual(golden.nodeErrors);
    expect([...made.outputs].sort()).toEqual(golden.outputs);
    expect(made.error === undefined).toBe(golden.valid);
    if (golden.valid) expect(toPythonJson(promptToJson(made.prompt))).toBe(golden.after);
  });
});

test.each(["toString", "__proto__", "constructor"])("a node may be called %s", async (id) => {
  const prompt = JSON.stringify({ node: { class_type: "SaveImage", inputs: {} } });
  const options = { definitions: NODE_DEFINITIONS, services: new FakeServices() };
  const made = await validatePrompt(parsePrompt(prompt.replace("node", id)), options);
  expect(Object.entries(made.nodeErrors)).toMatchObject([[id, { dependent_outputs: [id] }]]);
});
