import { defineNode, output } from "../node-definition.ts";

const CATEGORY = "utils/primitive";
/** Python's sys.maxsize on 64 bits. */
const INT_MAX = 2n ** 63n - 1n;

const primitiveInt = defineNode({
  name: "PrimitiveInt",
  displayName: "Int",
  category: CATEGORY,
  inputs: { value: { type: "SEED", min: -INT_MAX, max: INT_MAX } },
  outputs: [output("INT")],
  run: ({ value }) => ({ outputs: [value] }),
});

const primitiveFloat = defineNode({
  name: "PrimitiveFloat",
  displayName: "Float",
  category: CATEGORY,
  inputs: { value: { type: "FLOAT", min: -Number(INT_MAX), max: Number(INT_MAX), step: 0.1 } },
  outputs: [output("FLOAT")],
  run: ({ value }) => ({ outputs: [value] }),
});

const primitiveString = defineNode({
  name: "PrimitiveString",
  displayName: "String",
  category: CATEGORY,
  inputs: { value: { type: "STRING", isMultiline: false } },
  outputs: [output("STRING")],
  run: ({ value }) => ({ outputs: [value] }),
});

const primitiveStringMultiline = defineNode({
  name: "PrimitiveStringMultiline",
  displayName: "String (Multiline)",
  category: CATEGORY,
  inputs: { value: { type: "STRING", isMultiline: true } },
  outputs: [output("STRING")],
  run: ({ value }) => ({ outputs: [value] }),
});

const primitiveBoolean = defineNode({
  name: "PrimitiveBoolean",
  displayName: "Boolean",
  category: CATEGORY,
  inputs: { value: { type: "BOOLEAN" } },
  outputs: [output("BOOLEAN")],
  run: ({ value }) => ({ outputs: [value] }),
});

/** As Python's str(), and json.dumps for what it can write. */
function shownText(value: unknown): string {
  if (typeof value === "string") return value;
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value === "number" && Number.isInteger(value)) return value.toFixed(1);
  if (typeof value === "number" || typeof value === "bigint") return String(value);
  if (value === undefined || value === null) return "None";
  try {
    return JSON.stringify(value, shorten, 4);
  } catch {
    return "source exists, but could not be serialized.";
  }
}

/** Values of a picture would be megabytes of text. */
function shorten(_key: string, value: unknown): unknown {
  return ArrayBuffer.isView(value) ? `${value.byteLength} bytes` : value;
}

const previewAny = defineNode({
  name: "PreviewAny",
  displayName: "Preview as Text",
  category: "utils",
  isOutput: true,
  inputs: { source: { type: "*" } },
  outputs: [],
  run: ({ source }) => ({ outputs: [], ui: { text: [shownText(source)] } }),
});

const comfySwitch = defineNode({
  name: "ComfySwitchNode",
  displayName: "Switch",
  category: "logic",
  description: "Passes one of two inputs on. What only feeds the other does not run.",
  inputs: {
    switch: { type: "BOOLEAN" },
    on_false: { type: "*", isLazy: true },
    on_true: { type: "*", isLazy: true },
  },
  outputs: [output("*", "output")],
  neededInputs: ({ switch: isOn }) => [isOn === true ? "on_true" : "on_false"],
  run: ({ switch: isOn, on_true, on_false }) => ({ outputs: [isOn ? on_true : on_false] }),
});

export const PRIMITIVE_NODES = [
  primitiveInt,
  primitiveFloat,
  primitiveString,
  primitiveStringMultiline,
  primitiveBoolean,
  previewAny,
  comfySwitch,
];
