import { expect, test } from "vitest";
import { LunaError } from "../kernel/index.ts";
import { runtimeError, shortened } from "./runtime.ts";

test("what ONNX Runtime says comes under the code that fits, shortened to one line", () => {
  const codeOf = (text: string) => runtimeError(new Error(text), "Opening").code;
  expect(codeOf("std::bad_alloc")).toBe("MEMORY_EXCEEDED");
  expect(codeOf("BFCArena: Failed to allocate memory for requested buffer")).toBe(
    "MEMORY_EXCEEDED",
  );
  expect(codeOf("Got invalid dimensions for input: x for the following indices")).toBe(
    "TENSOR_MALFORMED",
  );
  expect(codeOf("Non-zero status code returned while running Add node")).toBe("ENGINE_FAILED");
  const known = new LunaError("FILE_UNREADABLE", "gone");
  expect(runtimeError(known, "Opening")).toBe(known);
  expect(
    shortened(new Error("/onnxruntime_src/onnxruntime/core/x.cc:136 Init()\n  No adapters")),
  ).toBe("Init() No adapters");
  expect(shortened("x".repeat(10_000)).length).toBeLessThan(500);
});
