/**
 * Settings: flags > LUNA_* variables > luna.toml > defaults, read once, checked and frozen.
 * One table describes them all; `--help`, docs/configuration.md and `luna doctor` come from it.
 * This file alone reads the environment.
 */
import { existsSync, readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { parse as parseToml } from "smol-toml";
import { LunaError } from "./errors.ts";
import { parseTokenFile, type TokenGrant } from "./token-file.ts";

type Kind = "string" | "integer" | "boolean" | "list";

type Setting = Readonly<{
  kind: Kind;
  default: string | number | boolean | readonly string[];
  unit?: string;
  choices?: readonly string[];
  min?: number;
  max?: number;
  /** Never shown or logged. */
  isSecret?: boolean;
  /** Where the flag is called otherwise than the setting. */
  flag?: string;
  doc: string;
}>;

const MIB = 1024 * 1024;

export const SETTINGS = {
  models: {
    kind: "list",
    default: [],
    doc: "Model folder as ComfyUI lays it out (checkpoints, loras, vae, ...); may be given several times. The embedded model's folder always comes last.",
  },
  extraModelPaths: {
    kind: "string",
    default: "",
    doc: "ComfyUI's own extra_model_paths.yaml, read for more model folders.",
  },
  host: {
    kind: "string",
    default: "127.0.0.1",
    doc: "Address to listen on. Anything but loopback needs a token.",
  },
  port: {
    kind: "integer",
    default: 19283,
    min: 0,
    max: 65535,
    doc: "TCP port; 0 picks a free one.",
  },
  socket: {
    kind: "string",
    default: "auto",
    doc: "Path of the Unix socket (named pipe on Windows) that serves the same protocol; `auto` derives it from the port, `off` opens none.",
  },
  token: { kind: "string", default: "", isSecret: true, doc: "Token every client must show." },
  tokenFile: {
    kind: "string",
    default: "",
    doc: "File that holds the token; for a daemon a line for each of several, with limits (docs/operations.md).",
  },
  allowedHosts: {
    kind: "list",
    default: [],
    doc: "Host names besides loopback under which a browser or proxy may reach the daemon.",
  },
  device: {
    kind: "string",
    default: "auto",
    doc: "Where the engine runs: auto, cpu, cuda or webgpu. `auto` takes the first that passes its self-test. Several with commas are an engine each, every model on all of them: cuda:0,cuda:1 or, with threads, cpu:1,cpu:1. The SHARED_DEVICE of the Python original.",
  },
  threads: {
    kind: "integer",
    default: 0,
    min: 0,
    max: 1024,
    doc: "Threads of the CPU engine; 0 takes one for each core.",
  },
  batchRows: {
    kind: "integer",
    default: 0,
    min: 0,
    max: 64,
    doc: "Rows that run together at most; 0 measures for each shape what pays. 1 computes every picture alone, so that its bytes never depend on company.",
  },
  clientWeights: {
    kind: "list",
    default: [],
    doc: "Shares of clients under load, as NAME=WEIGHT by the name they connect with; 1 for all others.",
  },
  memoryMiB: {
    kind: "integer",
    default: 0,
    min: 0,
    max: 16 * MIB,
    unit: "MiB",
    doc: "Budget of loaded models and of the weights that LoRAs change as a whole; what is idle goes first. 0 takes three quarters of the machine's memory.",
  },
  loraCacheMiB: {
    kind: "integer",
    default: 1024,
    min: 1,
    max: MIB,
    unit: "MiB",
    doc: "Budget of LoRAs in the engine: files parsed, factors sent by clients, and what is joined from them for a batch. The daemon keeps factors that clients sent within the same number again.",
  },
  tensorStoreMiB: {
    kind: "integer",
    default: 1024,
    min: 1,
    max: MIB,
    unit: "MiB",
    doc: "Budget of tensors that clients name by digest.",
  },
  daemonUrl: {
    kind: "string",
    default: "",
    flag: "daemon",
    doc: "Where clients look for the daemon; empty means ws://127.0.0.1:<port>.",
  },
  logLevel: {
    kind: "string",
    default: "warn",
    choices: ["debug", "info", "warn", "error"],
    doc: "Lowest level of log entries (JSON lines) written to standard error.",
  },
} as const satisfies Record<string, Setting>;

export type SettingName = keyof typeof SETTINGS;
type ValueOf<S extends Setting> = S["kind"] extends "list"
  ? readonly string[]
  : S["kind"] extends "integer"
    ? number
    : S["kind"] extends "boolean"
      ? boolean
      : string;
export type Config = Readonly<{ [Name in SettingName]: ValueOf<(typeof SETTINGS)[Name]> }> &
  Readonly<{
    /** What clients may show a daemon; `token` is the first of them. */
    tokens: readonly TokenGrant[];
    /** For "$NAME" in ComfyUI's extra_model_paths.yaml. */
    environment: Environment;
  }>;
type Value = string | number | boolean | readonly string[];

/** "loraCacheMiB" -> "lora-cache-mib"; "daemonUrl" -> "daemon". */
export function flagName(name: SettingName): string {
  const setting: Setting = SETTINGS[name];
  return setting.flag ?? dashed(name);
}

function dashed(name: string): string {
  return name.replace(/[A-Z]+/g, (capitals) => `-${capitals.toLowerCase()}`).replace("mi-b", "mib");
}

/** "loraCacheMiB" -> "LUNA_LORA_CACHE_MIB". */
export function variableName(name: string): string {
  return `LUNA_${dashed(name).replaceAll("-", "_").toUpperCase()}`;
}

function invalid(source: string, message: string): LunaError {
  return new LunaError("CONFIG_INVALID", `${source}: ${message}`);
}

function checkInteger(setting: Setting, value: unknown, source: string): number {
  const number = typeof value === "string" && value.trim() !== "" ? Number(value) : value;
  const { min = 0, max = Number.MAX_SAFE_INTEGER } = setting;
  if (typeof number !== "number" || !Number.isSafeInteger(number) || number < min || number > max) {
    throw invalid(source, `${JSON.stringify(value)} is not a whole number from ${min} to ${max}.`);
  }
  return number;
}

function checkValue(setting: Setting, value: unknown, source: string): Value {
  switch (setting.kind) {
    case "integer":
      return checkInteger(setting, value, source);
    case "boolean": {
      const flags: Record<string, boolean> = { true: true, "1": true, false: false, "0": false };
      const flag = flags[String(value)];
      if (flag === undefined)
        throw invalid(source, `${JSON.stringify(value)} is not true or false.`);
      return flag;
    }
    case "list": {
      const list = Array.isArray(value) ? value : [value];
      if (!list.every((item) => typeof item === "string")) throw invalid(source, "texts expected.");
      return list;
    }
    case "string": {
      if (typeof value !== "string") throw invalid(source, "a text is expected.");
      if (setting.choices && !setting.choices.includes(value)) {
        throw invalid(source, `"${value}" is none of ${setting.choices.join(", ")}.`);
      }
      return value;
    }
  }
}

function readToml(path: string): Record<string, unknown> {
  try {
    return parseToml(readFileSync(path, "utf8"));
  } catch (cause) {
    throw new LunaError("CONFIG_INVALID", `${path} is not valid TOML: ${String(cause)}`, { cause });
  }
}

function fromFile(path: string): Map<string, Value> {
  const values = new Map<string, Value>();
  for (const [key, value] of Object.entries(readToml(path))) {
    const name = Object.keys(SETTINGS).find(
      (candidate) => candidate === key || dashed(candidate) === key,
    );
    if (name === undefined) {
      throw invalid(path, `unknown setting "${key}". Known: ${Object.keys(SETTINGS).join(", ")}.`);
    }
    values.set(name, checkValue(SETTINGS[name as SettingName], value, `${path}, ${key}`));
  }
  return values;
}

export type Environment = Readonly<Record<string, string | undefined>>;

function fromEnvironment(environment: Environment): Map<string, Value> {
  const values = new Map<string, Value>();
  for (const [name, setting] of Object.entries<Setting>(SETTINGS)) {
    const variable = variableName(name);
    const text = environment[variable];
    if (text === undefined || text === "") continue;
    const separator = process.platform === "win32" ? ";" : ":";
    const value = setting.kind === "list" ? text.split(separator).filter(Boolean) : text;
    values.set(name, checkValue(setting, value, variable));
  }
  return values;
}

/** The environment of a child process: this one's, changed by `changes`. */
export function childEnvironment(changes: Environment): NodeJS.ProcessEnv {
  return { ...process.env, ...changes };
}

/** The options of node:util parseArgs for these settings. */
export function settingOptions(names: readonly SettingName[]) {
  return Object.fromEntries(
    names.map((name) => {
      const setting: Setting = SETTINGS[name];
      const type = setting.kind === "boolean" ? ("boolean" as const) : ("string" as const);
      return [flagName(name), { type, multiple: setting.kind === "list" }];
    }),
  );
}

export type ConfigSources = Readonly<{
  /** Parsed flags by flag name, as parseArgs gives them. */
  flags?: Readonly<Record<string, unknown>>;
  environment?: Environment;
  /** Folder where luna.toml is looked for. */
  folder?: string;
}>;

/** Merges and checks all sources. Throws CONFIG_INVALID naming the source and the value. */
export function readConfig({
  flags = {},
  environment = process.env,
  folder = process.cwd(),
}: ConfigSources = {}): Config {
  const file = environment["LUNA_CONFIG"] ?? join(folder, "luna.toml");
  const isNamed = environment["LUNA_CONFIG"] !== undefined;
  if (isNamed && !existsSync(file)) throw invalid("LUNA_CONFIG", `${file} does not exist.`);
  const merged = new Map<string, Value>();
  for (const [name, setting] of Object.entries<Setting>(SETTINGS))
    merged.set(name, setting.default);
  if (existsSync(file)) for (const [name, value] of fromFile(file)) merged.set(name, value);
  for (const [name, value] of fromEnvironment(environment)) merged.set(name, value);
  for (const [name, setting] of Object.entries<Setting>(SETTINGS)) {
    const flag = flagName(name as SettingName); // A key of the table.
    const value = flags[flag];
    if (value !== undefined) merged.set(name, checkValue(setting, value, `--${flag}`));
  }
  // Every name has a checked value of its own kind by now.
  const config = Object.fromEntries(merged) as unknown as Config;
  const tokens = config.token === "" ? readTokens(config.tokenFile) : [{ token: config.token }];
  const token = tokens[0]?.token ?? "";
  return Object.freeze({ ...config, token, tokens, environment });
}

function readTokens(path: string): TokenGrant[] {
  if (path === "") return [];
  let text: string;
  try {
    text = readFileSync(resolve(path), "utf8");
  } catch (cause) {
    throw new LunaError("CONFIG_INVALID", `The token file ${path} cannot be read.`, { cause });
  }
  const tokens = parseTokenFile(text, path);
  // An empty file would leave the door open that its owner meant to lock.
  if (tokens.length > 0) return tokens;
  throw new LunaError("CONFIG_INVALID", `The token file ${path} holds no token.`);
}

/** Parses a command line of settings and extra options; throws CONFIG_INVALID on unknown flags. */
export function parseFlags(
  args: readonly string[],
  options: NonNullable<Parameters<typeof parseArgs>[0]>["options"],
): { values: Record<string, unknown>; positionals: string[] } {
  try {
    const { values, positionals } = parseArgs({
      args: [...args],
      options: options ?? {},
      allowPositionals: true,
    });
    return { values: { ...values }, positionals };
  } catch (cause) {
    throw new LunaError("CONFIG_INVALID", cause instanceof Error ? cause.message : String(cause), {
      cause,
    });
  }
}

/** The page docs/configuration.md, made from the table. */
export function configurationPage(): string {
  const rows = Object.entries<Setting>(SETTINGS).map(([name, setting]) => {
    const value = Array.isArray(setting.default) ? "none" : String(setting.default) || "empty";
    const range = setting.choices?.join(", ") ?? "";
    const facts = [setting.kind, setting.unit, range].filter(Boolean).join(", ");
    return `| \`${name}\` | \`--${flagName(name as SettingName)}\` | \`${variableName(name)}\` | ${facts} | ${value} | ${setting.doc} |`;
  });
  return [
    "# Configuration",
    "",
    "Flags win over `LUNA_*` variables, these over `luna.toml` in the working folder (or the file named by",
    "`LUNA_CONFIG`), these over the defaults. Keys in `luna.toml` are the names of the first column; lists are",
    "arrays there, and separated by `:` (`;` on Windows) in a variable. This page is generated from",
    "`src/kernel/config.ts` by `npm run docs`.",
    "",
    "| name | flag | variable | kind | default | what it does |",
    "|---|---|---|---|---|---|",
    ...rows,
    "",
  ].join("\n");
}
