/**
 * One client's connection: the greeting, requests in flight, their errors. Whatever a client sends,
 * it gets one clear error for it, and only its own session is affected.
 */
import { randomUUID } from "node:crypto";
import { type Logger, LunaError, SILENT_LOGGER, type TokenGrant } from "../kernel/index.ts";
import {
  type ClientMessage,
  type DaemonStatus,
  decodeFrame,
  encodeFrame,
  type Frame,
  HELLO_BYTES_MAX,
  type Hello,
  PROTOCOL_VERSION,
  parseClientMessage,
  type Request,
  type Result,
  requestIdOf,
  type Transport,
  toErrorMessage,
} from "../protocol/index.ts";
import { findGrant } from "./access.ts";
import { OPEN_GRANT, permitted, type Release, rowsOf } from "./allowances.ts";
import {
  HANDSHAKE_MS_MAX,
  PENDING_BYTES_MAX,
  PENDING_PER_SESSION_MAX,
  WARNINGS_MAX,
} from "./limits.ts";
import { type Answer, operate, type Services } from "./operations.ts";
import { SessionStats } from "./session-stats.ts";
import type { Upload } from "./uploads.ts";
import type { Outlet } from "./watch-desk.ts";

type InFlight = Readonly<{
  op: Request["op"];
  abort: AbortController;
  bytes: number;
  release: Release;
}>;

export class Session {
  readonly id = randomUUID();
  readonly #transport: Transport;
  readonly #services: Services;
  readonly #now: () => number;
  readonly #logger: Logger;
  readonly #connectedAtMs: number;
  readonly #stats = new SessionStats();
  readonly #inFlight = new Map<number, InFlight>();
  readonly #uploads = new Map<string, Upload>();
  readonly #said = new Set<string>();
  readonly #handshake: ReturnType<typeof setTimeout>;
  /** Undefined until a token is shown, in the connection's headers or in the hello. */
  #grant: TokenGrant | undefined;
  #leave: Release = () => undefined;
  #client: Hello["client"] | undefined;
  #isClosed = false;

  constructor(
    transport: Transport,
    services: Services,
    options: { grant: TokenGrant | undefined; now: () => number; onClose: () => void },
  ) {
    this.#transport = transport;
    this.#services = services;
    this.#now = options.now;
    this.#logger = services.options.logger ?? SILENT_LOGGER;
    this.#connectedAtMs = options.now();
    this.#grant = options.grant;
    this.#handshake = setTimeout(() => {
      const message = `No hello within ${HANDSHAKE_MS_MAX} ms.`;
      this.#refuse(new LunaError("DEADLINE_EXCEEDED", message));
    }, HANDSHAKE_MS_MAX);
    transport.onMessage((bytes) => this.#onFrame(bytes));
    transport.onClose((reason) => {
      this.#end(reason);
      options.onClose();
    });
  }

  /** Undefined before the greeting. */
  toStatus(): DaemonStatus["sessions"][number] | undefined {
    if (!this.#client) return undefined;
    return {
      id: this.id,
      ...this.#client,
      connectedMs: this.#now() - this.#connectedAtMs,
      // Who watches waits for nothing.
      pending: [...this.#inFlight.values()].filter(({ op }) => op !== "watch").length,
      ...this.#stats.toStatus(),
    };
  }

  /** Tells the client why and closes. */
  close(error: LunaError): void {
    this.#refuse(error);
  }

  #end(reason: string): void {
    this.#isClosed = true;
    clearTimeout(this.#handshake);
    this.#leave();
    for (const { abort } of this.#inFlight.values()) abort.abort();
    for (const upload of this.#uploads.values()) {
      upload.abandon().catch((error) => this.#logger.warn("upload.left", { error: String(error) }));
    }
    if (!this.#client) return;
    this.#logger.info("session.closed", { ...this.#client, reason });
    this.#tell("closed", this.#client);
  }

  #refuse(error: LunaError, id?: number): void {
    this.#sendError(error, id);
    this.#transport.close(error.code);
  }

  #sendError(error: LunaError, id?: number): void {
    if (!this.#isClosed) this.#transport.send(encodeFrame(toErrorMessage(error, id)));
  }

  #onFrame(bytes: Uint8Array): void {
    if (this.#isClosed) return;
    const arrivedAtMs = this.#now();
    let id: number | undefined;
    try {
      if (!this.#client) checkHelloSize(bytes);
      const frame = decodeFrame(bytes);
      id = requestIdOf(frame.message);
      const message = parseClientMessage(frame.message);
      this.#onMessage(message, { frame, bytes: bytes.byteLength, arrivedAtMs });
    } catch (cause) {
      const error = LunaError.from(cause);
      this.#logger.info("frame.refused", { session: this.id, code: error.code });
      if (this.#client) this.#sendError(error, id);
      else this.#refuse(error, id);
    }
  }

  #onMessage(
    message: ClientMessage,
    arrival: { frame: Frame; bytes: number; arrivedAtMs: number },
  ): void {
    if (message.type === "hello") {
      this.#greet(message);
      return;
    }
    if (!this.#client) throw new LunaError("REQUEST_INVALID", "The first frame must be a hello.");
    if (message.type === "cancel") this.#inFlight.get(message.id)?.abort.abort();
    else this.#accept(message, arrival);
  }

  #greet({ client, token }: Hello): void {
    if (this.#client) throw new LunaError("REQUEST_INVALID", "This session was greeted already.");
    const { options, allowances } = this.#services;
    this.#grant ??= findGrant(token, options.tokens ?? []);
    if (this.#grant === undefined) {
      throw new LunaError("UNAUTHORIZED", "This daemon wants a token: --token, or LUNA_TOKEN.");
    }
    this.#leave = allowances.connect(this.#grant);
    clearTimeout(this.#handshake);
    this.#client = client;
    this.#logger.info("session.opened", { session: this.id, ...client });
    this.#tell("opened", client);
    const daemon = { version: options.version, pid: process.pid };
    this.#transport.send(
      encodeFrame({ type: "welcome", protocol: PROTOCOL_VERSION, daemon, session: this.id }),
    );
  }

  #accept(
    request: Request,
    { frame, bytes, arrivedAtMs }: { frame: Frame; bytes: number; arrivedAtMs: number },
  ): void {
    const { id, op } = request;
    if (this.#inFlight.has(id)) {
      throw new LunaError("REQUEST_INVALID", `Request ${id} is in flight already.`);
    }
    const bytesInFlight = [...this.#inFlight.values()].reduce((sum, one) => sum + one.bytes, bytes);
    if (this.#inFlight.size >= PENDING_PER_SESSION_MAX || bytesInFlight > PENDING_BYTES_MAX) {
      const limits = `${PENDING_PER_SESSION_MAX} requests and ${PENDING_BYTES_MAX} bytes`;
      throw new LunaError("QUEUE_FULL", `A session may have ${limits} in flight.`);
    }
    const grant = this.#grant ?? OPEN_GRANT;
    const allowed = permitted(request, grant);
    const rows = rowsOf(request, frame.tensors);
    const release = this.#services.allowances.begin(grant, rows);
    const abort = new AbortController();
    this.#inFlight.set(id, { op, abort, bytes, release });
    this.#transport.expectLife?.(true);
    void this.#serve(allowed, { frame, signal: abort.signal, arrivedAtMs });
  }

  /** Settles one request with exactly one frame; never rejects. */
  async #serve(
    request: Request,
    { frame, signal, arrivedAtMs }: { frame: Frame; signal: AbortSignal; arrivedAtMs: number },
  ): Promise<void> {
    const { id, op } = request;
    try {
      const { tensors } = frame;
      const [client, stats, uploads] = [this.id, this.#stats, this.#uploads];
      const name = this.#client?.name ?? "";
      const answer = await operate(
        request,
        { client, name, stats, uploads, tensors, signal, outlet: this.#outlet(id) },
        this.#services,
      );
      this.#forget(id);
      if (!this.#isClosed)
        this.#transport.send(encodeFrame(this.#result(id, answer), answer.tensors));
      if (answer.timings) {
        const totalMs = this.#now() - arrivedAtMs;
        if (op === "model_forward") this.#stats.addStep(totalMs, answer.timings);
        this.#services.events.publish({ type: "run", op, totalMs, ...answer.timings });
      }
    } catch (cause) {
      this.#forget(id);
      const error = LunaError.from(cause);
      const level = error.code === "INTERNAL" ? "error" : "info";
      const text = level === "error" && cause instanceof Error ? { stack: cause.stack } : {};
      this.#logger[level]("request.failed", { session: this.id, op, code: error.code, ...text });
      this.#sendError(error, id);
      // A watch ends by being cancelled; that is its answer, not a failure.
      if (op !== "watch" && !this.#isClosed) this.#tellError(error, op);
    }
  }

  #forget(id: number): void {
    this.#inFlight.get(id)?.release();
    this.#inFlight.delete(id);
    if (this.#inFlight.size === 0) this.#transport.expectLife?.(false);
  }

  #outlet(id: number): Outlet {
    return {
      send: (events, dropped) => {
        if (this.#isClosed) return;
        this.#transport.send(encodeFrame({ type: "event", id, dropped, events: [...events] }));
      },
      bufferedBytes: () => this.#transport.bufferedBytes,
    };
  }

  #tell(change: "opened" | "closed", { name, version }: Hello["client"]): void {
    const event = { type: "session", atMs: Date.now(), session: this.id } as const;
    this.#services.events.publish({ ...event, change, name, version });
  }

  #tellError({ code, message }: LunaError, op: string): void {
    const event = { type: "error", atMs: Date.now(), session: this.id } as const;
    this.#services.events.publish({ ...event, name: this.#client?.name ?? "", op, code, message });
  }

  #result(id: number, { data, timings, warnings = [] }: Answer): Result {
    const fresh = warnings.filter((warning) => !this.#said.has(warning));
    for (const warning of fresh) if (this.#said.size < WARNINGS_MAX) this.#said.add(warning);
    const result: Result = timings
      ? { type: "result", id, data, timings }
      : { type: "result", id, data };
    return fresh.length > 0 ? { ...result, warnings: fresh } : result;
  }
}

function checkHelloSize(bytes: Uint8Array): void {
  if (bytes.byteLength <= HELLO_BYTES_MAX) return;
  throw new LunaError(
    "LIMIT_EXCEEDED",
    `The first frame has ${bytes.byteLength} bytes, limit ${HELLO_BYTES_MAX}.`,
  );
}
