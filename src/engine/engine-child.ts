/**
 * One engine process as its parent sees it: started, spoken to over a duplex pipe (file
 * descriptor 3), one request at a time, and gone for good when the process ends. The pipe is a
 * socket pair on Linux and macOS; libuv makes it a named pipe on Windows (untested there).
 */
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { createRequire } from "node:module";
import { extname } from "node:path";
import { createInterface } from "node:readline";
import type { Duplex } from "node:stream";
import { fileURLToPath, pathToFileURL } from "node:url";
import { childEnvironment, type Logger, type LogLevel, LunaError } from "../kernel/index.ts";
import { encodeFramePrefix, FrameReader } from "./frame-reader.ts";
import { LOG_LINE_LENGTH_MAX, PIPE_FRAME_BYTES_MAX, START_MS_MAX } from "./limits.ts";
import {
  type ChildFacts,
  type ChildMessage,
  type ChildOptions,
  type Chosen,
  decodeError,
  decodeMessage,
  encodeMessage,
  type ParentMessage,
  PIPE_VERSION,
  type Request,
  type Result,
  type Tensors,
} from "./messages.ts";

import { ReadyLoras } from "./ready-loras.ts";

/** The process ended before it answered. */
export class ChildExited extends Error {
  override readonly name = "ChildExited";

  /** Somebody outside ended it (a person, the system short of memory): no fault of the request's. */
  get isKill(): boolean {
    return this.message === "signal SIGKILL";
  }
}

export type Reply = Readonly<{ result: Result; tensors: Tensors }>;

/** What the supervisor needs of a child; tests put a fake in its place. */
export interface EngineChild {
  readonly pid: number;
  readonly chosen: Chosen;
  /** As of the last answer. */
  readonly facts: ChildFacts;
  /** Digests of factors and shared tensors the process has been given. */
  readonly knownDigests: Set<string>;
  readonly readyLoras: ReadyLoras;
  /** Resolves with the reason when the process has ended. */
  readonly exited: Promise<string>;
  /** One at a time. Rejects with the engine's LunaError, or ChildExited. */
  request(request: Request, tensors?: Tensors): Promise<Reply>;
  /** Ends it at once; the request under way rejects with ChildExited and that reason. */
  kill(reason: string): void;
  /** Asks it to end; kills it when it has not after `ms`. */
  close(ms: number): Promise<void>;
}

function spawnProcess(): ChildProcess {
  const extension = extname(import.meta.filename);
  const path = fileURLToPath(new URL(`./child${extension}`, import.meta.url));
  // From sources (tests) the child needs the same loader; from dist it is plain JavaScript.
  const loader =
    extension === ".ts" ? pathToFileURL(createRequire(import.meta.url).resolve("tsx")).href : "";
  const execArgs = loader === "" ? [] : ["--import", loader];
  // As in the daemon itself (cli/main.ts): buffers, not objects, so a small young generation. Its code
  // is not compiled early (cli/serve.ts): that doubles what the first use of a LoRA takes.
  return spawn(process.execPath, ["--max-semi-space-size=2", ...execArgs, path], {
    stdio: ["ignore", "ignore", "pipe", "pipe"],
    // ONNX Runtime's native code reads this when it starts; without it, it reports usage to its maker.
    env: childEnvironment({ ORT_DISABLE_TELEMETRY: "1" }),
    windowsHide: true,
  });
}

/**
 * The child logs JSON lines on stderr; anything else there comes from native code: while devices
 * are tried that is no news, later it may be all that is known about a crash.
 */
function forwardLog(line: string, logger: Logger, level: "debug" | "warn"): void {
  try {
    const entry = JSON.parse(line) as Record<string, unknown>;
    const { level: own, event, time: _, ...fields } = entry;
    if (typeof event === "string" && typeof own === "string" && own in logger) {
      logger[own as LogLevel](event, fields);
      return;
    }
  } catch {
    // Not JSON: passed on below.
  }
  logger[level]("engine.stderr", { line: line.slice(0, LOG_LINE_LENGTH_MAX) });
}

type Waiting = Readonly<{
  id: number;
  resolve: (reply: Reply) => void;
  reject: (error: unknown) => void;
}>;

const NO_ENTRIES = { entries: 0, bytes: 0 };
export const NO_FACTS: ChildFacts = {
  ...{ rssBytes: 0, loraCache: NO_ENTRIES, overlays: NO_ENTRIES },
  forgottenLoras: [],
};

class ProcessChild implements EngineChild {
  readonly pid: number;
  readonly exited: Promise<string>;
  readonly knownDigests = new Set<string>();
  readonly readyLoras = new ReadyLoras();
  chosen: Chosen = { name: "cpu", attention: "fused" };
  facts: ChildFacts = NO_FACTS;
  readonly #process: ChildProcess;
  readonly #pipe: Duplex;
  readonly #reader = new FrameReader();
  #exitReason: string | undefined;
  #killReason: string | undefined;
  #requestCount = 0;
  #waiting: Waiting | undefined;
  #onStart: ((error?: LunaError) => void) | undefined;

  constructor(child: ChildProcess, pid: number, logger: Logger) {
    this.pid = pid;
    this.#process = child;
    this.#pipe = child.stdio[3] as Duplex; // Index 3 is "pipe" in the spawn options.
    this.#pipe.on("data", (chunk: Uint8Array) => this.#receive(chunk));
    child.on("error", () => undefined); // A kill that comes too late.
    this.#pipe.on("error", () => undefined); // The exit event follows and tells why.
    if (child.stderr !== null) {
      createInterface({ input: child.stderr }).on("line", (line) => {
        forwardLog(line, logger, this.#onStart === undefined ? "warn" : "debug");
      });
    }
    this.exited = new Promise((resolve) => {
      child.once("exit", (code, signal) => {
        const ending = signal === null ? `exit code ${code}` : `signal ${signal}`;
        const reason = this.#killReason ?? ending;
        this.#exitReason = reason;
        this.#pipe.destroy();
        this.#waiting?.reject(new ChildExited(reason));
        this.#waiting = undefined;
        this.readyLoras.close();
        this.#onStart?.(new LunaError("ENGINE_CRASHED", `The engine ended at start: ${reason}.`));
        resolve(reason);
      });
    });
  }

  async start(options: ChildOptions): Promise<void> {
    const started = new Promise<void>((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#process.kill("SIGKILL");
        reject(
          new LunaError("ENGINE_CRASHED", `The engine did not start within ${START_MS_MAX} ms.`),
        );
      }, START_MS_MAX);
      this.#onStart = (error) => {
        clearTimeout(timer);
        this.#onStart = undefined;
        if (error === undefined) resolve();
        else reject(error);
      };
    });
    this.#send({ type: "start", version: PIPE_VERSION, options });
    await started;
  }

  request(request: Request, tensors?: Tensors): Promise<Reply> {
    assert(this.#waiting === undefined, "The supervisor sends one request at a time.");
    if (this.#exitReason !== undefined) return Promise.reject(new ChildExited(this.#exitReason));
    const id = ++this.#requestCount;
    return new Promise((resolve, reject) => {
      this.#waiting = { id, resolve, reject };
      try {
        this.#send({ type: "request", id, request }, tensors);
      } catch (error) {
        this.#waiting = undefined;
        reject(error);
      }
    });
  }

  kill(reason: string): void {
    this.#killReason ??= reason;
    this.#process.kill("SIGKILL");
  }

  async close(ms: number): Promise<void> {
    this.#pipe.end();
    const timer = setTimeout(() => this.#process.kill("SIGKILL"), ms);
    await this.exited;
    clearTimeout(timer);
  }

  #send(message: ParentMessage, tensors?: Tensors): void {
    const parts = encodeMessage(message, tensors);
    const byteLength = parts.reduce((sum, part) => sum + part.byteLength, 0);
    if (byteLength > PIPE_FRAME_BYTES_MAX) {
      throw new LunaError(
        "LIMIT_EXCEEDED",
        `A batch takes ${byteLength} bytes, limit ${PIPE_FRAME_BYTES_MAX}: send fewer items at once.`,
      );
    }
    this.#pipe.cork();
    this.#pipe.write(encodeFramePrefix(byteLength));
    for (const part of parts) this.#pipe.write(part);
    this.#pipe.uncork();
  }

  #receive(chunk: Uint8Array): void {
    for (const frame of this.#reader.push(chunk)) {
      const { message, tensors } = decodeMessage<ChildMessage>(frame);
      this.#handle(message, tensors);
    }
  }

  #handle(message: ChildMessage, tensors: Tensors): void {
    switch (message.type) {
      case "ready":
        this.chosen = message.chosen;
        this.#onStart?.(
          message.version === PIPE_VERSION
            ? undefined
            : new LunaError(
                "PROTOCOL_VERSION",
                `The engine speaks version ${message.version}, the daemon ${PIPE_VERSION}.`,
              ),
        );
        return;
      case "failed":
        this.#onStart?.(decodeError(message.error));
        return;
      case "done":
      case "error": {
        const waiting = this.#waiting;
        assert(waiting?.id === message.id, "The engine answers the request it was given.");
        this.#waiting = undefined;
        this.facts = message.facts;
        this.readyLoras.forget(message.facts.forgottenLoras);
        if (message.type === "done") waiting.resolve({ result: message.result, tensors });
        else waiting.reject(decodeError(message.error));
        return;
      }
      case "prepared": {
        const { file, path, error } = message;
        this.readyLoras.settle(file, path, error && decodeError(error));
      }
    }
  }
}

/** Starts an engine process and waits until its self-test has passed. Throws DEVICE_UNAVAILABLE. */
export async function startEngineChild(
  options: ChildOptions,
  logger: Logger,
): Promise<EngineChild> {
  const child = spawnProcess();
  if (child.pid === undefined) {
    const error = await new Promise<Error>((resolve) => child.once("error", resolve));
    throw new LunaError("ENGINE_CRASHED", `The engine could not be started: ${error.message}`, {
      cause: error,
    });
  }
  const engine = new ProcessChild(child, child.pid, logger);
  await engine.start(options);
  return engine;
}
