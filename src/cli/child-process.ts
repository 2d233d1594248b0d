import { type ChildProcess, spawn } from "node:child_process";
import { extname } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { type Config, LunaError } from "../kernel/index.ts";

const MAIN = new URL(`./main${extname(import.meta.url)}`, import.meta.url);
/** How long a child may take to end by itself before it is killed. */
const STOP_MS = 5_000;

/** The engine's settings as flags of a child. */
export function engineFlags({ device, threads }: Config): string[] {
  return ["--device", device, "--threads", String(threads)];
}

/** The model folders as flags of a child. */
export function modelFlags({ models }: Config): string[] {
  return models.flatMap((folder) => ["--models", folder]);
}

export type LunaProcess = Readonly<{
  child: ChildProcess;
  /** Resolves with the exit code once the process is gone. */
  exited: Promise<number>;
  /** The last lines of standard error, for an error message. */
  errors: () => string;
  stop: () => Promise<void>;
}>;

/** Starts `luna ARGS` with this program's own runtime; each line of its output goes to `onLine`. */
export function startLuna(args: readonly string[], onLine: (line: string) => void): LunaProcess {
  // Sources run through tsx, the built program as it is.
  const runtime = extname(MAIN.pathname) === ".ts" ? ["--import", import.meta.resolve("tsx")] : [];
  const child = spawn(process.execPath, [...runtime, fileURLToPath(MAIN), ...args], {
    stdio: ["ignore", "pipe", "pipe"],
    windowsHide: true,
  });
  const errorLines: string[] = [];
  createInterface({ input: child.stdout }).on("line", onLine);
  createInterface({ input: child.stderr }).on("line", (line) => {
    errorLines.push(line);
    if (errorLines.length > 20) errorLines.shift();
  });
  const exited = new Promise<number>((resolve, reject) => {
    child.once("error", reject);
    child.once("close", (code, signal) => resolve(code ?? (signal ? 130 : 1)));
  });
  const stop = async () => {
    if (child.exitCode !== null || child.signalCode !== null) return;
    child.kill("SIGTERM");
    const timer = setTimeout(() => child.kill("SIGKILL"), STOP_MS);
    await exited.catch(() => undefined);
    clearTimeout(timer);
  };
  return { child, exited, errors: () => errorLines.join("\n"), stop };
}

/** Waits until `find` has returned a value for a line of the child's output, or the child ended. */
export async function startAndAwait<T>(
  args: readonly string[],
  find: (line: string) => T | undefined,
  options: { onLine?: (line: string) => void; onStart?: (process: LunaProcess) => void } = {},
): Promise<{ process: LunaProcess; value: T }> {
  let settle: (value: T) => void = () => undefined;
  const found = new Promise<T>((resolve) => {
    settle = resolve;
  });
  const luna = startLuna(args, (line) => {
    const value = find(line);
    if (value !== undefined) settle(value);
    options.onLine?.(line);
  });
  options.onStart?.(luna);
  const ended = luna.exited.then((code) => {
    throw new LunaError("INTERNAL", `luna ${args[0]} ended with code ${code}.\n${luna.errors()}`);
  });
  return { process: luna, value: await Promise.race([found, ended]) };
}
