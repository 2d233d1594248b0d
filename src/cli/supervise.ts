/** A daemon that is started again when it dies: clients reconnect and send their requests again. */
import { type ChildProcess, spawn } from "node:child_process";
import { setTimeout as wait } from "node:timers/promises";
import { EXIT_SETTINGS } from "./command.ts";

/** A daemon that ends by itself this soon after its first start always will: no use to repeat. */
const START_MS = 3_000;
/** Pauses between starts double from the first to the last; a minute of life begins anew. */
const PAUSE_MS_MIN = 100;
const PAUSE_MS_MAX = 5_000;
const STEADY_MS = 60_000;

type Options = Readonly<{ signal: AbortSignal; print: (line: string) => void }>;

/** Runs this program's `serve` with `args` until `signal`; resolves to its exit code. */
export async function supervise(args: readonly string[], options: Options): Promise<number> {
  const { signal, print } = options;
  let pauseMs = PAUSE_MS_MIN;
  for (let starts = 1; ; starts++) {
    const startedAtMs = performance.now();
    const command = [...process.execArgv, process.argv[1] ?? "", "serve", ...args];
    const child = spawn(process.execPath, command, { stdio: "inherit", windowsHide: true });
    const code = await ended(child, signal);
    if (signal.aborted || code === 0) return 0;
    const livedMs = performance.now() - startedAtMs;
    const isFutile = code === EXIT_SETTINGS || (code !== undefined && livedMs < START_MS);
    if (starts === 1 && isFutile) return code;
    pauseMs = livedMs > STEADY_MS ? PAUSE_MS_MIN : Math.min(2 * pauseMs, PAUSE_MS_MAX);
    print(`[LunaServer] The daemon ended (${code ?? "killed"}); starting it again.`);
    await wait(pauseMs, undefined, { signal }).catch(() => undefined);
    if (signal.aborted) return 0;
  }
}

/** The exit code, undefined for a death by signal. */
function ended(child: ChildProcess, signal: AbortSignal): Promise<number | undefined> {
  return new Promise((resolve, reject) => {
    const stop = () => void child.kill("SIGTERM");
    if (signal.aborted) stop();
    signal.addEventListener("abort", stop, { once: true });
    child.once("error", reject);
    child.once("exit", (code) => {
      signal.removeEventListener("abort", stop);
      resolve(code ?? undefined);
    });
  });
}
