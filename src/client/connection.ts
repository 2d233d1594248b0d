/**
 * One logical connection to a daemon. It greets, numbers requests, and survives the daemon: after a
 * loss it reconnects and sends what was in flight again, which is safe because a forward is pure
 * and every other operation may be repeated. After `graceMs` without a daemon it is lost for good.
 */
import { LunaError } from "../kernel/index.ts";
import {
  type DaemonMessage,
  decodeFrame,
  encodeFrame,
  FRAME_BYTES_MAX,
  frameBytes,
  fromErrorMessage,
  NO_TENSORS,
  type Op,
  parseDaemonMessage,
  parseResultData,
  type Request,
  type RequestBody,
  type Result,
  type Transport,
  type Welcome,
} from "../protocol/index.ts";
import type { Tensor } from "../tensor/index.ts";
import { type Greeting, greet } from "./greet.ts";
import {
  RECONNECT_GRACE_MS,
  RECONNECT_PAUSE_MS_MAX,
  RECONNECT_PAUSE_MS_MIN,
  REQUEST_MS_MAX,
} from "./limits.ts";
import type { Peer, Reply } from "./peer.ts";
import type { CallOptions } from "./types.ts";

export type ConnectionOptions = Greeting &
  Readonly<{
    /** One attempt to reach the daemon. */
    open: () => Promise<Transport>;
    /** Total time for reconnecting; 0 never reconnects. */
    graceMs?: number;
    /** What to tell a person: lost, back again. */
    say?: (line: string) => void;
  }>;

type Pending = {
  readonly parts: Uint8Array[];
  settle(result: Result, tensors: ReadonlyMap<string, Tensor>): void;
  fail(error: LunaError): void;
  readonly startedAtMs: number;
};

/** Codes after which another attempt cannot help. */
const FINAL_CODES: readonly string[] = ["PROTOCOL_VERSION", "UNAUTHORIZED", "ORIGIN_REFUSED"];

export class Connection implements Peer {
  readonly #options: ConnectionOptions;
  readonly #pending = new Map<number, Pending>();
  #transport: Transport | undefined;
  #welcome: Welcome;
  #era: object = {};
  #nextId = 1;
  #closedWith: LunaError | undefined;

  private constructor(options: ConnectionOptions, transport: Transport, welcome: Welcome) {
    this.#options = options;
    this.#welcome = welcome;
    this.#use(transport, welcome);
  }

  /** Connects and greets, one attempt. Throws DAEMON_NOT_RUNNING, PROTOCOL_VERSION, UNAUTHORIZED. */
  static async open(options: ConnectionOptions): Promise<Connection> {
    const transport = await options.open();
    return new Connection(options, transport, await greet(transport, options));
  }

  get era(): object {
    return this.#era;
  }

  /** The daemon at the far end, and this session's name there. */
  get daemon(): Readonly<{ version: string; pid: number; session: string }> {
    return { ...this.#welcome.daemon, session: this.#welcome.session };
  }

  get isLost(): boolean {
    return this.#closedWith !== undefined;
  }

  request<Name extends Op>(
    body: RequestBody<Name>,
    tensors: ReadonlyMap<string, Tensor> = NO_TENSORS,
    options: CallOptions = {},
  ): Promise<Reply<Name>> {
    if (this.#closedWith) return Promise.reject(this.#closedWith);
    if (options.signal?.aborted) return Promise.reject(cancelled());
    const id = this.#nextId++;
    // RequestBody<Name> and the envelope make a Request<Name>; the spread loses that.
    const parts = encodeFrame({ type: "request", id, ...body } as Request, tensors);
    if (frameBytes(parts) > FRAME_BYTES_MAX) return Promise.reject(tooLarge(frameBytes(parts)));
    return new Promise((resolve, reject) => {
      const give = (error: LunaError) => {
        this.#send(encodeFrame({ type: "cancel", id }));
        pending.fail(error);
      };
      const onAbort = () => give(cancelled());
      const deadlineMs = options.deadlineMs ?? REQUEST_MS_MAX;
      const timer = setTimeout(() => give(tooLate(body.op, deadlineMs)), deadlineMs);
      const release = () => {
        clearTimeout(timer);
        options.signal?.removeEventListener("abort", onAbort);
        this.#pending.delete(id);
        this.#expectLife();
      };
      const pending: Pending = {
        parts,
        startedAtMs: performance.now(),
        settle(result, answer) {
          release();
          const totalMs = performance.now() - pending.startedAtMs;
          resolve({ ...readResult(body.op, result), tensors: answer, totalMs });
        },
        fail(error) {
          release();
          reject(error);
        },
      };
      options.signal?.addEventListener("abort", onAbort, { once: true });
      this.#pending.set(id, pending);
      this.#expectLife();
      this.#send(parts);
    });
  }

  async close(): Promise<void> {
    if (this.#closedWith) return;
    this.#end(new LunaError("CONNECTION_LOST", "The connection was closed by this program."));
  }

  #end(error: LunaError): void {
    this.#closedWith = error;
    this.#transport?.close("bye");
    this.#transport = undefined;
    for (const pending of [...this.#pending.values()]) pending.fail(error);
  }

  #expectLife(): void {
    this.#transport?.expectLife?.(this.#pending.size > 0);
  }

  #send(parts: readonly Uint8Array[]): void {
    this.#transport?.send(parts);
  }

  #use(transport: Transport, welcome: Welcome): void {
    this.#transport = transport;
    this.#welcome = welcome;
    transport.onMessage((bytes) => this.#onFrame(bytes));
    transport.onClose((reason) => {
      if (this.#transport !== transport) return;
      this.#transport = undefined;
      this.#era = {};
      void this.#reconnect(reason);
    });
  }

  async #reconnect(reason: string): Promise<void> {
    const { graceMs = RECONNECT_GRACE_MS, say } = this.#options;
    const lostAtMs = performance.now();
    say?.(`[LunaClient] Connection to the daemon lost (${reason.trim()})`);
    let pauseMs = RECONNECT_PAUSE_MS_MIN;
    while (!this.#closedWith && performance.now() - lostAtMs < graceMs) {
      await new Promise((resolve) => setTimeout(resolve, pauseMs));
      pauseMs = Math.min(pauseMs * 2, RECONNECT_PAUSE_MS_MAX);
      const error = await this.#tryAgain();
      if (error === undefined) return say?.("[LunaClient] Connected to the daemon again");
      if (FINAL_CODES.includes(error.code)) return this.#end(error);
    }
    if (this.#closedWith) return;
    const message = `The daemon has been unreachable for ${graceMs} ms.`;
    this.#end(new LunaError("CONNECTION_LOST", message));
  }

  async #tryAgain(): Promise<LunaError | undefined> {
    try {
      const transport = await this.#options.open();
      const welcome = await greet(transport, this.#options);
      if (this.#closedWith) transport.close("bye");
      else this.#resume(transport, welcome);
      return undefined;
    } catch (cause) {
      return LunaError.from(cause);
    }
  }

  #resume(transport: Transport, welcome: Welcome): void {
    this.#use(transport, welcome);
    this.#expectLife();
    for (const { parts } of this.#pending.values()) this.#send(parts);
  }

  #onFrame(bytes: Uint8Array): void {
    try {
      const { message, tensors } = decodeFrame(bytes);
      this.#onMessage(parseDaemonMessage(message), tensors);
    } catch (cause) {
      this.#end(LunaError.from(cause));
    }
  }

  #onMessage(message: DaemonMessage, tensors: ReadonlyMap<string, Tensor>): void {
    switch (message.type) {
      case "welcome":
      case "event":
        return;
      case "result":
        // A request cancelled here may still be answered.
        this.#pending.get(message.id)?.settle(message, tensors);
        return;
      case "error": {
        const error = fromErrorMessage(message);
        // The daemon closes next, and what is in flight goes to the one that follows it.
        if (error.code === "SHUTTING_DOWN") return;
        if (message.id !== undefined) this.#pending.get(message.id)?.fail(error);
        // The daemon could not read a frame: nobody knows which request it was.
        else for (const pending of [...this.#pending.values()]) pending.fail(error);
      }
    }
  }
}

function readResult<Name extends Op>(
  op: Name,
  { data, timings, warnings = [] }: Result,
): Omit<Reply<Name>, "tensors" | "totalMs"> {
  const parsed = parseResultData(op, data);
  return timings === undefined ? { data: parsed, warnings } : { data: parsed, warnings, timings };
}

function cancelled(): LunaError {
  return new LunaError("CANCELLED", "The request was cancelled.");
}

function tooLate(op: string, deadlineMs: number): LunaError {
  return new LunaError("DEADLINE_EXCEEDED", `${op} had no answer within ${deadlineMs} ms.`);
}

function tooLarge(bytes: number): LunaError {
  return new LunaError(
    "LIMIT_EXCEEDED",
    `The request has ${bytes} bytes, a frame holds at most ${FRAME_BYTES_MAX}.`,
  );
}
