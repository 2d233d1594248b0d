/** docs/protocol.md and the code say the same: operations, fields, limits and the worked examples. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import type { z } from "zod";
import { digestTensor, fromFloat } from "../tensor/index.ts";
import { batchEventSchema, watchEventSchema } from "./events.ts";
import { decodeFrame, encodeFrame, joinFrame } from "./frame.ts";
import * as limits from "./limits.ts";
import {
  cancelSchema,
  errorSchema,
  eventSchema,
  helloSchema,
  parseClientMessage,
  resultSchema,
  timingsSchema,
  welcomeSchema,
} from "./messages.ts";
import { OPS } from "./ops.ts";
import { controlSchema, modelInfoSchema, statusSchema, tileSchema } from "./schemas.ts";

const page = readFileSync(join(import.meta.dirname, "../../docs/protocol.md"), "utf8");

/** Rows of the first table after a heading, as trimmed cells, without the two heading rows. */
function tableAfter(heading: string): string[][] {
  const begin = page.indexOf(`\n${heading}`);
  expect(begin, heading).toBeGreaterThan(0);
  const lines = page.slice(begin + 1).split("\n");
  const first = lines.findIndex((line) => line.startsWith("|"));
  const count = lines.slice(first).findIndex((line) => !line.startsWith("|"));
  return lines.slice(first + 2, first + count).map((line) =>
    line
      .slice(1, -1)
      .split("|")
      .map((cell) => cell.trim()),
  );
}

const listed = (cell: string | undefined): string[] => (cell ?? "").split(", ").filter(Boolean);

/** Field names as the page writes them: those that may be missing with a "?". */
function fieldsOf(shape: Readonly<Record<string, z.ZodType>>): string[] {
  return Object.entries(shape).map(([name, schema]) =>
    schema.safeParse(undefined).success || schema.constructor.name === "ZodExactOptional"
      ? `${name}?`
      : name,
  );
}

test("the table of operations is the table in the code", () => {
  const rows = tableAfter("## 4. Operations");
  const written = rows.map(([op, fields, , data]) => [op, listed(fields), listed(data)]);
  const coded = Object.entries(OPS).map(([op, { request, data }]) => [
    op,
    fieldsOf(request),
    fieldsOf(data.shape),
  ]);
  expect(written).toEqual(coded);
});

test("the fields of a control net in a request are those in the code", () => {
  expect(tableAfter("**controls** names").map(([field]) => field)).toEqual(
    fieldsOf(controlSchema.shape),
  );
});

test.each([
  ["### hello", helloSchema],
  ["### welcome", welcomeSchema],
  ["### error", errorSchema],
  ["### event", eventSchema],
  ["### cancel", cancelSchema],
  ["### ModelInfo", modelInfoSchema],
  ["### status", statusSchema],
] as const)("the fields of %s are those in the code", (heading, schema) => {
  const written = tableAfter(heading).map(([field]) => field);
  expect(written).toEqual(fieldsOf(schema.shape));
});

test("the events are those in the code", () => {
  const written = tableAfter("### Events").map(([type, fields]) => [type, listed(fields)]);
  const coded = watchEventSchema.options.map(({ shape }) => {
    const { type, ...fields } = shape;
    return [type.value, fieldsOf(fields)];
  });
  expect(written).toEqual(coded);
  const { requests } = batchEventSchema.shape;
  expect(page).toContain(`{${Object.keys(requests.element.shape).join(", ")}}, \`loras\``);
});

test("the fields of a result are those in the code", () => {
  const written = tableAfter("### result").map(([field]) => field?.replace("?", ""));
  expect(written).toEqual(Object.keys(resultSchema.shape));
});

/** Names inside "{a, b: {c}}" of a table's type column. */
function namesIn(heading: string, field: string): string[] {
  const row = tableAfter(heading).find(([name]) => name === field);
  return [...(row?.[1] ?? "").matchAll(/\w+\??/g)].map(([name]) => name);
}

test("the inner fields of messages and values are those in the code", () => {
  const inner = (schema: { shape: Readonly<Record<string, z.ZodType>> }) => fieldsOf(schema.shape);
  expect(namesIn("### hello", "client")).toEqual(inner(helloSchema.shape.client));
  expect(namesIn("### error", "error")).toEqual(inner(errorSchema.shape.error));
  expect(namesIn("### result", "timings?")).toEqual([
    ...inner(timingsSchema),
    ...inner(timingsSchema.shape.batch),
  ]);
  const { unet, vae, control, textEncoders } = modelInfoSchema.shape;
  expect(namesIn("### ModelInfo", "control?")).toEqual(inner(control.unwrap()));
  expect(namesIn("### ModelInfo", "unet?")).toEqual(inner(unet.unwrap()));
  expect(namesIn("### ModelInfo", "vae?")).toEqual(inner(vae.unwrap()));
  expect(namesIn("### ModelInfo", "textEncoders")).toEqual(inner(textEncoders.element));
  for (const name of ["daemon", "queue", "batches", "engine", "tensorStore"] as const) {
    expect(namesIn("### status", name).sort()).toEqual(inner(statusSchema.shape[name]).sort());
  }
  for (const name of ["models", "sessions"] as const) {
    expect(namesIn("### status", name)).toEqual(inner(statusSchema.shape[name].element));
  }
  expect(page).toContain(`{${Object.keys(tileSchema.shape).join(", ")}} in pixels`);
});

test("the limits of frames and messages are those in the code", () => {
  const written = new Map(tableAfter("## 7. Limits").map(([what, limit]) => [what, Number(limit)]));
  expect(written.get("bytes of a frame")).toBe(limits.FRAME_BYTES_MAX);
  expect(written.get("bytes of the first frame")).toBe(limits.HELLO_BYTES_MAX);
  expect(written.get("bytes of a frame's header")).toBe(limits.FRAME_HEADER_BYTES_MAX);
  expect(written.get("tensors of a frame")).toBe(limits.FRAME_TENSORS_MAX);
  expect(written.get("characters of a message")).toBe(limits.MESSAGE_LENGTH_MAX);
  expect(written.get("LoRAs of a request")).toBe(limits.LORAS_MAX);
  expect(written.get("control nets of a request")).toBe(limits.CONTROLS_MAX);
});

/** The bytes of a dump: offset, two spaces, hex, two spaces, text. */
function hexDump(name: string): Uint8Array {
  const block = new RegExp(`\`\`\`hex ${name}\n([^\`]*)\`\`\``).exec(page)?.[1] ?? "";
  const bytes = block.split("\n").flatMap((line) => line.slice(6, 53).match(/[0-9a-f]{2}/g) ?? []);
  return Uint8Array.from(bytes, (byte) => Number.parseInt(byte, 16));
}

test.each(["hello", "model_forward"])("the hex of %s is a frame as the code writes it", (name) => {
  const bytes = hexDump(name);
  const { message, tensors } = decodeFrame(bytes);
  expect(joinFrame(encodeFrame(parseClientMessage(message), tensors))).toEqual(bytes);
});

test("the worked digest is what the code computes", () => {
  const tensor = fromFloat({ shape: [2], data: new Float32Array([1, 2]) });
  expect(page).toContain(`= ${digestTensor(tensor)}\n`);
});
