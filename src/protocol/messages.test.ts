import fc from "fast-check";
import { expect, test } from "vitest";
import { LunaError } from "../kernel/index.ts";
import { fromErrorMessage, toErrorMessage } from "./error-message.ts";
import { parseClientMessage, parseDaemonMessage, requestIdOf } from "./messages.ts";
import { parseResultData } from "./ops.ts";

const digest = `sha256:${"0".repeat(64)}`;

function problem(message: unknown): string {
  try {
    parseClientMessage(message);
    return "fine";
  } catch (error) {
    return error instanceof LunaError ? `${error.code} ${error.message}` : `unexpected ${error}`;
  }
}

test("a step with LoRAs and digests is a message", () => {
  const step = {
    ...{ type: "request", id: 3, op: "model_forward", model: "checkpoints/a.safetensors" },
    loras: [
      { name: "red", strength: -1.5 },
      { digest, strength: 1 },
    ],
    refs: { context: digest },
  };
  expect(parseClientMessage(step)).toEqual(step);
});

test("the version is told apart before anything else of a hello is read", () => {
  const newer = { type: "hello", protocol: 2, somethingNew: true };
  expect(problem(newer)).toMatch(/^PROTOCOL_VERSION .*protocol 2, this daemon 1/);
  expect(problem({ type: "hello" })).toMatch(/^PROTOCOL_VERSION .*undefined/);
});

test.each([
  [null, /not a JSON object/],
  [{}, /unknown type undefined/],
  [{ type: "request", id: 1, op: "toString" }, /unknown operation "toString"/],
  [{ type: "request", id: 1.5, op: "ping" }, /"id"/],
  [{ type: "request", id: 1, op: "ping", more: 1 }, /more/],
  [{ type: "request", id: 1, op: "unload" }, /"model"/],
  [{ type: "request", id: 1, op: "model_forward", model: "a", refs: { x: "abc" } }, /"refs.x"/],
  [
    { type: "request", id: 1, op: "model_forward", model: "a", loras: [{ name: "x" }] },
    /"loras.0"/,
  ],
])("%j is refused with its problem", (message, expected) => {
  expect(problem(message)).toMatch(/^REQUEST_INVALID/);
  expect(problem(message)).toMatch(expected);
});

test("any JSON is a message or one clear error", () => {
  const almost = fc.record(
    {
      type: fc.constantFrom("hello", "request", "cancel", "result", 1),
      protocol: fc.constantFrom(1, 2),
      id: fc.oneof(fc.integer(), fc.string()),
      op: fc.constantFrom("ping", "status", "model_forward", "__proto__", 3),
      model: fc.jsonValue(),
    },
    { requiredKeys: [] },
  );
  const property = fc.property(fc.oneof(fc.jsonValue(), almost), (message) => {
    expect(problem(message)).toMatch(/^(fine|REQUEST_INVALID|PROTOCOL_VERSION)/);
    const id = requestIdOf(message);
    expect(id === undefined || id >= 0).toBe(true);
  });
  fc.assert(property, { numRuns: 500 });
});

test("an error survives the wire with its code and details", () => {
  const error = new LunaError("TENSOR_UNKNOWN", "gone", { details: { digests: [digest] } });
  const message = parseDaemonMessage(JSON.parse(JSON.stringify(toErrorMessage(error, 7))));
  if (message.type !== "error") throw new Error("An error was sent.");
  expect(message).toMatchObject({ id: 7, error: { retryable: true } });
  expect(fromErrorMessage(message)).toMatchObject({
    code: "TENSOR_UNKNOWN",
    details: { digests: [digest] },
  });
});

test("an error code of a newer daemon becomes INTERNAL and keeps its name", () => {
  const error = { code: "NEWER", message: "text", retryable: false };
  expect(fromErrorMessage({ type: "error", error })).toMatchObject({
    code: "INTERNAL",
    message: "NEWER: text",
  });
});

test("a daemon's answer may have more fields than this client knows, not fewer", () => {
  expect(parseResultData("put_lora", { digest, more: 1 })).toEqual({ digest });
  expect(() => parseResultData("put_lora", {})).toThrow(/put_lora cannot be read/);
});
