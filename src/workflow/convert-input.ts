/** Scalars as Python's int(), float(), str() and bool() convert them, with Python's complaints. */
import type { InputSpec } from "../nodes/index.ts";
import { isJsonObject, type Json, pythonFloat } from "./json.ts";

/** What Python would have raised; the text goes to clients word for word. */
export class PythonError extends Error {
  readonly type: string;

  constructor(type: string, message: string) {
    super(message);
    this.type = type;
  }
}

/** ComfyUI's name of the type that an input converts to, or undefined for combos and links. */
export function scalarType(spec: InputSpec): "INT" | "FLOAT" | "STRING" | "BOOLEAN" | undefined {
  switch (spec.type) {
    case "SEED":
    case "INT":
      return "INT";
    case "FLOAT":
    case "STRING":
    case "BOOLEAN":
      return spec.type;
    default:
      return undefined;
  }
}

/** Throws PythonError where Python would raise. */
export function convertScalar(type: "INT" | "FLOAT" | "STRING" | "BOOLEAN", value: Json): Json {
  switch (type) {
    case "INT":
      return toInt(value);
    case "FLOAT":
      return toFloat(value);
    case "STRING":
      return pythonText(value);
    case "BOOLEAN":
      return toBool(value);
  }
}

const INT_TEXT = /^[+-]?\d+(?:_\d+)*$/;
const FLOAT_TEXT = /^[+-]?(?:\d+(?:_\d+)*\.?(?:\d+(?:_\d+)*)?|\.\d+(?:_\d+)*)(?:e[+-]?\d+)?$/i;

function toInt(value: Json): bigint {
  if (typeof value === "bigint") return value;
  if (typeof value === "boolean") return value ? 1n : 0n;
  if (typeof value === "number") {
    // JSON's 1e999 is an infinity, in Python too.
    if (Number.isFinite(value)) return BigInt(Math.trunc(value));
    throw new PythonError("OverflowError", "cannot convert float infinity to integer");
  }
  if (typeof value === "string") {
    const text = value.trim();
    if (INT_TEXT.test(text)) return BigInt(text.replaceAll("_", "").replace(/^\+/, ""));
    throw new PythonError(
      "ValueError",
      `invalid literal for int() with base 10: ${pythonRepr(value)}`,
    );
  }
  const wanted = "a string, a bytes-like object or a real number";
  throw new PythonError(
    "TypeError",
    `int() argument must be ${wanted}, not '${pythonTypeName(value)}'`,
  );
}

function toFloat(value: Json): number {
  if (typeof value === "number") return value;
  if (typeof value === "bigint") return Number(value);
  if (typeof value === "boolean") return value ? 1 : 0;
  if (typeof value === "string") {
    const text = value.trim();
    if (FLOAT_TEXT.test(text)) return Number(text.replaceAll("_", ""));
    throw new PythonError("ValueError", `could not convert string to float: ${pythonRepr(value)}`);
  }
  throw new PythonError(
    "TypeError",
    `float() argument must be a string or a real number, not '${pythonTypeName(value)}'`,
  );
}

function toBool(value: Json): boolean {
  if (isJsonObject(value)) return value.size > 0;
  if (Array.isArray(value)) return value.length > 0;
  return Boolean(value);
}

function pythonTypeName(value: Json): string {
  if (value === null) return "NoneType";
  if (isJsonObject(value)) return "dict";
  if (Array.isArray(value)) return "list";
  const names = { boolean: "bool", bigint: "int", number: "float", string: "str" } as const;
  return (typeof value) in names ? names[typeof value as keyof typeof names] : typeof value;
}

/** Python's str(). */
export function pythonText(value: Json): string {
  return typeof value === "string" ? value : pythonRepr(value);
}

/** Python's repr(). */
export function pythonRepr(value: Json): string {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value === "bigint") return value.toString();
  if (typeof value === "number") return pythonFloat(value);
  if (typeof value === "string") return reprString(value);
  if (isJsonObject(value)) {
    const entries = [...value].map(([key, item]) => `${reprString(key)}: ${pythonRepr(item)}`);
    return `{${entries.join(", ")}}`;
  }
  return `[${value.map(pythonRepr).join(", ")}]`;
}

function reprString(text: string): string {
  const quote = text.includes("'") && !text.includes('"') ? '"' : "'";
  const escaped = text
    .replaceAll("\\", "\\\\")
    .replaceAll("\n", "\\n")
    .replaceAll("\r", "\\r")
    .replaceAll("\t", "\\t");
  return quote + (quote === "'" ? escaped.replaceAll("'", "\\'") : escaped) + quote;
}
