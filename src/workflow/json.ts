/**
 * JSON as Python reads and writes it, because a prompt goes into PNG files and back to clients as it
 * came: integers of any size are bigint (seeds pass 2^53), floats stay floats (1.0), objects are
 * Maps (JavaScript would sort keys that look like numbers, and node ids do).
 */
import { LunaError } from "../kernel/index.ts";
import { INTEGER_DIGITS_MAX, JSON_DEPTH_MAX, WORKFLOW_LENGTH_MAX } from "./limits.ts";

export type Json = null | boolean | bigint | number | string | readonly Json[] | JsonObject;
export type JsonObject = ReadonlyMap<string, Json>;

export function isJsonObject(value: Json | undefined): value is JsonObject {
  return value instanceof Map;
}

/** True for what a JSON text can say. */
export function isJson(value: unknown): value is Json {
  if (value === null || ["boolean", "bigint", "number", "string"].includes(typeof value))
    return true;
  if (Array.isArray(value)) return value.every(isJson);
  return value instanceof Map && [...value].every(([k, v]) => typeof k === "string" && isJson(v));
}

function invalid(message: string, cause?: unknown): LunaError {
  return new LunaError("WORKFLOW_INVALID", message, { cause });
}

/** Throws WORKFLOW_INVALID with the place of the first fault. */
export function parseJson(text: string): Json {
  if (text.length > WORKFLOW_LENGTH_MAX) {
    throw invalid(`The workflow has ${text.length} characters, limit ${WORKFLOW_LENGTH_MAX}.`);
  }
  const reader = new JsonReader(text);
  const value = reader.readValue(0);
  reader.expectEnd();
  return value;
}

const SPACE = /[ \t\n\r]*/y;
const NUMBER = /-?(?:0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?/y;
const WORDS: readonly (readonly [string, Json])[] = [
  ["null", null],
  ["true", true],
  ["false", false],
];

class JsonReader {
  readonly #text: string;
  #at = 0;

  constructor(text: string) {
    this.#text = text;
  }

  readValue(depth: number): Json {
    if (depth > JSON_DEPTH_MAX) {
      throw invalid(`The workflow nests more than ${JSON_DEPTH_MAX} levels.`);
    }
    this.#match(SPACE);
    switch (this.#text[this.#at]) {
      case "{":
        return this.#readObject(depth);
      case "[":
        return this.#readArray(depth);
      case '"':
        return this.#readString();
      default: {
        const word = this.#readWord();
        return word === undefined ? this.#readNumber() : word.value;
      }
    }
  }

  expectEnd(): void {
    this.#match(SPACE);
    if (this.#at < this.#text.length) throw this.#fault("the end");
  }

  #match(pattern: RegExp): RegExpExecArray | undefined {
    pattern.lastIndex = this.#at;
    const found = pattern.exec(this.#text) ?? undefined;
    if (found !== undefined) this.#at += found[0].length;
    return found;
  }

  #take(character: string): boolean {
    this.#match(SPACE);
    if (this.#text[this.#at] !== character) return false;
    this.#at++;
    return true;
  }

  #fault(expected: string): LunaError {
    const line = this.#text.slice(0, this.#at).split("\n").length;
    const found = this.#text.slice(this.#at, this.#at + 20);
    const what = found === "" ? "the end of the file" : JSON.stringify(found);
    return invalid(
      `The workflow is not valid JSON: line ${line} has ${what} where ${expected} should be.`,
    );
  }

  #readObject(depth: number): JsonObject {
    this.#at++;
    const object = new Map<string, Json>();
    if (this.#take("}")) return object;
    do {
      this.#match(SPACE);
      const key = this.#readString();
      if (!this.#take(":")) throw this.#fault('":"');
      object.set(key, this.readValue(depth + 1));
    } while (this.#take(","));
    if (!this.#take("}")) throw this.#fault('"," or "}"');
    return object;
  }

  #readArray(depth: number): Json[] {
    this.#at++;
    const array: Json[] = [];
    if (this.#take("]")) return array;
    do array.push(this.readValue(depth + 1));
    while (this.#take(","));
    if (!this.#take("]")) throw this.#fault('"," or "]"');
    return array;
  }

  #readString(): string {
    const begin = this.#at;
    if (this.#text[begin] !== '"') throw this.#fault("a string");
    let end = begin + 1;
    while (end < this.#text.length && this.#text[end] !== '"') {
      end += this.#text[end] === "\\" ? 2 : 1;
    }
    try {
      const text: unknown = JSON.parse(this.#text.slice(begin, end + 1));
      this.#at = end + 1;
      return String(text);
    } catch (cause) {
      throw invalid(this.#fault("a string").message, cause);
    }
  }

  #readWord(): { value: Json } | undefined {
    const found = WORDS.find(([word]) => this.#text.startsWith(word, this.#at));
    if (found === undefined) return undefined;
    this.#at += found[0].length;
    return { value: found[1] };
  }

  #readNumber(): bigint | number {
    const found = this.#match(NUMBER);
    if (found === undefined) throw this.#fault("a value");
    const [literal, fraction, exponent] = found;
    if (fraction !== undefined || exponent !== undefined) return Number(literal);
    if (literal.length > INTEGER_DIGITS_MAX) {
      throw invalid(`A number has ${literal.length} digits, limit ${INTEGER_DIGITS_MAX}.`);
    }
    return BigInt(literal);
  }
}

/** As Python's json.dumps: ", " and ": " between, ASCII only (é is \\u00e9), floats with a point. */
export function toPythonJson(value: Json): string {
  if (value === null || typeof value === "boolean") return String(value);
  if (typeof value === "bigint") return value.toString();
  if (typeof value === "number") return pythonFloat(value);
  if (typeof value === "string") return asciiString(value);
  if (isJsonObject(value)) {
    const entries = [...value].map(([key, item]) => `${asciiString(key)}: ${toPythonJson(item)}`);
    return `{${entries.join(", ")}}`;
  }
  return `[${value.map(toPythonJson).join(", ")}]`;
}

function asciiString(text: string): string {
  return JSON.stringify(text).replace(
    /[\u0080-\uffff]/g,
    (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
}

/** Python's repr of a float: 1.0, 0.5, 1e+16, 1e-05. */
export function pythonFloat(value: number): string {
  if (Number.isNaN(value)) return "NaN";
  if (!Number.isFinite(value)) return value > 0 ? "Infinity" : "-Infinity";
  if (Object.is(value, -0)) return "-0.0";
  const [digits = "0", power = "0"] = value.toExponential().split("e");
  const exponent = Number(power);
  if (value !== 0 && (exponent < -4 || exponent >= 16)) {
    const sign = exponent < 0 ? "-" : "+";
    return `${digits}e${sign}${String(Math.abs(exponent)).padStart(2, "0")}`;
  }
  const text =
    exponent < 0 ? value.toFixed(digits.replace(/[-.]/g, "").length - 1 - exponent) : String(value);
  return text.includes(".") ? text : `${text}.0`;
}
