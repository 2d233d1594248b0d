/** Every workflow in examples/ runs from end to end over fake models, only a few steps each. */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { NODE_DEFINITIONS } from "../src/nodes/index.ts";
import { createWorkflowRunner, parsePrompt, setInput } from "../src/workflow/index.ts";
import { FakeServices } from "./support/fake-models.ts";

const folder = join(import.meta.dirname, "..", "examples");
const workflows = readdirSync(folder, { recursive: true, encoding: "utf8" }).filter((name) =>
  name.endsWith(".json"),
);
const LORAS = ["blueprint", "high-contrast", "pixel"].map((name) => `${name}.safetensors`);

test("there are four demo workflows, one without LoRAs", () => {
  const demo = workflows.filter((name) => name.startsWith("demo"));
  expect(demo.length).toBe(4);
  const plain = demo.filter((name) => !/lora/i.test(readFileSync(join(folder, name), "utf8")));
  expect(plain.length).toBe(1);
});

test.each(workflows)("%s", async (name) => {
  const services = new FakeServices({
    checkpoints: ["luna-emoji-v1.safetensors"],
    loras: LORAS,
  });
  const prompt = parsePrompt(readFileSync(join(folder, name), "utf8"));
  const short = [...prompt].reduce(
    (changed, [id, { inputs }]) =>
      inputs.has("steps") ? setInput(changed, `${id}.steps=2`, NODE_DEFINITIONS) : changed,
    prompt,
  );
  const runner = createWorkflowRunner({ definitions: NODE_DEFINITIONS, services });
  const validation = await runner.validate(short);
  expect(validation.problems).toEqual([]);
  const result = await runner.execute(validation);
  expect(services.files.size).toBeGreaterThan(0);
  expect(result.outputs.size).toBe(1);
  expect(services.lines.filter((line) => line.includes("Warning"))).toEqual([]);
});
