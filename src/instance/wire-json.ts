/**
 * JSON for clients: prompts go back as they came (integers of any size, 1.0 as 1.0, ids in their
 * order), beside plain values of this program.
 */
import { toPythonJson } from "../workflow/index.ts";

/** JSON that is already text: a long history is kept as text, it needs a tenth of the memory. */
export class RawJson {
  readonly text: string;

  constructor(text: string) {
    this.text = text;
  }
}

/** As JSON.stringify, but bigint, RawJson and the Maps of `parseJson` are allowed anywhere. */
export function toWireJson(value: unknown): string {
  if (value instanceof RawJson) return value.text;
  if (value instanceof Map) return toPythonJson(value);
  if (typeof value === "bigint") return value.toString();
  if (Array.isArray(value)) return `[${value.map(item).join(",")}]`;
  if (typeof value === "object" && value !== null) {
    const entries = Object.entries(value).filter(([, field]) => field !== undefined);
    return `{${entries.map(([key, field]) => `${JSON.stringify(key)}:${item(field)}`).join(",")}}`;
  }
  return JSON.stringify(value) ?? "null";
}

function item(value: unknown): string {
  return value === undefined ? "null" : toWireJson(value);
}
