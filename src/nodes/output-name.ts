/** Names of saved pictures as ComfyUI's folder_paths makes them: prefix, counter, "_.png". */
import { posix } from "node:path";
import { LunaError } from "../kernel/index.ts";

export type OutputName = Readonly<{ subfolder: string; filename: string }>;

const COUNTER_DIGITS = 5;

/**
 * Fills %width%, %height%, %year% ... %second% (local time) and parts the subfolder from the name.
 * %date:...% is filled by ComfyUI's editor before a prompt is sent, so here it stays.
 * Throws PATH_REFUSED for a prefix that leads out of the output folder.
 */
export function parsePrefix(
  prefix: string,
  facts: Readonly<{ width: number; height: number; nowMs: number }>,
): OutputName {
  const now = new Date(facts.nowMs);
  const two = (value: number) => String(value).padStart(2, "0");
  const tokens: Readonly<Record<string, string>> = {
    width: String(facts.width),
    height: String(facts.height),
    year: String(now.getFullYear()),
    month: two(now.getMonth() + 1),
    day: two(now.getDate()),
    hour: two(now.getHours()),
    minute: two(now.getMinutes()),
    second: two(now.getSeconds()),
  };
  const filled = prefix.replace(/%([a-z]+)%/g, (token, name: string) => tokens[name] ?? token);
  const path = posix.normalize(filled.replaceAll("\\", "/"));
  const isOutside = path.startsWith("../") || path === ".." || path.startsWith("/");
  if (isOutside || /^[a-z]:/i.test(path) || path.includes("\0")) {
    throw new LunaError(
      "PATH_REFUSED",
      `filename_prefix "${prefix}" leads out of the output folder. Use a name or a subfolder.`,
    );
  }
  const subfolder = posix.dirname(path);
  return { subfolder: subfolder === "." ? "" : subfolder, filename: posix.basename(path) };
}

/** One more than the highest counter in the folder for this name, 1 for the first. */
export function nextCounter(filename: string, existing: readonly string[]): number {
  const start = `${filename}_`;
  const counters = existing
    .filter((name) => name.startsWith(start))
    .map((name) => Number(/^\d+(?=_|$)/.exec(name.slice(start.length))?.[0] ?? 0));
  return Math.max(0, ...counters) + 1;
}

/** "ComfyUI" and 12 to "ComfyUI_00012_.png". */
export function pictureName(filename: string, counter: number): string {
  return `${filename}_${String(counter).padStart(COUNTER_DIGITS, "0")}_.png`;
}
