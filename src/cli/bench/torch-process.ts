/** PyTorch beside the daemon: the program of bench/torch_unet.py, spoken to in lines of JSON. */
import { type ChildProcess, spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { LunaError } from "../../kernel/index.ts";

const SCRIPT = fileURLToPath(new URL("../../../bench/torch_unet.py", import.meta.url));

export type TorchAnswer = Readonly<{
  ms?: number;
  /** Of the first answer. */
  torch?: string;
  layers?: number;
  bytes?: number;
  out?: readonly number[];
}>;

type Waiting = Readonly<{
  resolve: (answer: TorchAnswer) => void;
  reject: (error: LunaError) => void;
}>;

export class TorchProcess {
  readonly pid: number;
  readonly #child: ChildProcess;
  readonly #waiting: Waiting[] = [];
  #errors = "";

  private constructor(python: string, args: readonly string[]) {
    this.#child = spawn(python, [SCRIPT, ...args], { stdio: "pipe", windowsHide: true });
    this.pid = this.#child.pid ?? 0;
    const { stdout, stderr } = this.#child;
    if (stdout !== null) {
      createInterface({ input: stdout }).on("line", (line) => {
        this.#waiting.shift()?.resolve(JSON.parse(line) as TorchAnswer);
      });
    }
    stderr?.on("data", (text) => {
      this.#errors = `${this.#errors}${text}`.slice(-2000);
    });
    const fail = (reason: string) => {
      const message = `${python} ${reason}; --torch needs a Python that has torch.\n${this.#errors}`;
      for (const { reject } of this.#waiting.splice(0)) {
        reject(new LunaError("CONFIG_INVALID", message));
      }
    };
    this.#child.once("error", (error) => fail(error.message));
    this.#child.once("close", (code) => fail(`ended with code ${code}`));
  }

  /** Loads the UNet of `path` into a process of its own; resolves with the version of PyTorch too. */
  static async start(
    python: string,
    { path, heads }: { path: string; heads: number },
  ): Promise<{ process: TorchProcess; version: string }> {
    const process = new TorchProcess(python, [path, String(heads)]);
    const { torch = "unknown" } = await process.#next();
    return { process, version: torch };
  }

  ask(command: Readonly<Record<string, unknown>>): Promise<TorchAnswer> {
    const answer = this.#next();
    this.#child.stdin?.write(`${JSON.stringify(command)}\n`);
    return answer;
  }

  async stop(): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const gone = new Promise((resolve) => this.#child.once("close", resolve));
    this.#child.kill("SIGKILL");
    await gone;
  }

  #next(): Promise<TorchAnswer> {
    return new Promise((resolve, reject) => this.#waiting.push({ resolve, reject }));
  }
}
