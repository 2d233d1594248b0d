/** Bodies of requests: JSON whatever their type says, because half of the clients name another. */
import { LunaError } from "../../kernel/index.ts";
import { isJsonObject, type Json, type JsonObject, parseJson } from "../../workflow/index.ts";
import type { Request } from "./router.ts";

export async function readJson(request: Request): Promise<Json> {
  const text = (await request.body()).toString("utf8");
  try {
    return parseJson(text);
  } catch (cause) {
    const reason = LunaError.from(cause).message.replace("The workflow", "The body");
    throw new LunaError("REQUEST_INVALID", reason, { cause });
  }
}

/** Throws REQUEST_INVALID for anything but an object. */
export async function readObject(request: Request): Promise<JsonObject> {
  const value = await readJson(request);
  if (isJsonObject(value)) return value;
  throw new LunaError("REQUEST_INVALID", "The body is not a JSON object.");
}

/** An object, or an empty one where the body is none: ComfyUI forgives that here. */
export async function readLooseObject(request: Request): Promise<JsonObject> {
  try {
    return await readObject(request);
  } catch (error) {
    if (LunaError.isCode(error, "REQUEST_INVALID")) return new Map();
    throw error;
  }
}

/** The strings of a list, everything else left out. */
export function stringsOf(value: Json | undefined): string[] {
  return Array.isArray(value) ? value.filter((item) => typeof item === "string") : [];
}
