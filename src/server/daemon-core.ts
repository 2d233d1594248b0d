/**
 * The daemon without its sockets: sessions over any transport, one registry, one engine. The same
 * core serves WebSockets, Unix sockets, and an instance that computes for itself.
 */
import { LunaError, SILENT_LOGGER, type TokenGrant } from "../kernel/index.ts";
import type { DaemonStatus, Transport } from "../protocol/index.ts";
import { Allowances, OPEN_GRANT } from "./allowances.ts";
import { EventHub } from "./event-hub.ts";
import { SESSIONS_MAX } from "./limits.ts";
import { NetRunner } from "./net-runner.ts";
import type { Services } from "./operations.ts";
import type { DaemonOptions } from "./ports.ts";
import { Session } from "./session.ts";
import { readStatus } from "./status.ts";
import { TensorStore } from "./tensor-store.ts";
import { WatchDesk } from "./watch-desk.ts";

export interface DaemonCore {
  readonly options: DaemonOptions;
  readonly events: EventHub;
  /** Takes no new work any more. */
  readonly isClosing: boolean;
  /** Takes over a connection. Without a grant it must show a token in its hello, where one is wanted. */
  connect(transport: Transport, options?: { grant?: TokenGrant | undefined }): void;
  status(): Promise<DaemonStatus>;
  /** Refuses new work, fails what waits with SHUTTING_DOWN, and closes all sessions. */
  close(): void;
}

/** Wires a daemon. It owns neither the registry nor the engine: whoever made them closes them. */
export function createDaemonCore(options: DaemonOptions): DaemonCore {
  const now = options.now ?? (() => performance.now());
  const store = new TensorStore(options);
  const events = new EventHub();
  const runner = new NetRunner(options, store, { now, events });
  const sessions = new Set<Session>();
  const startedAtMs = now();
  const status = () =>
    readStatus({ options, store, runner, sessions: [...sessions], uptimeMs: now() - startedAtMs });
  const watches = new WatchDesk({ hub: events, status });
  const allowances = new Allowances();
  const services: Services = { options, store, runner, status, events, watches, allowances };
  const wantsNone = (options.tokens ?? []).length === 0;
  let isClosing = false;
  return {
    options,
    events,
    get isClosing() {
      return isClosing;
    },
    status,
    connect(transport, { grant = wantsNone ? OPEN_GRANT : undefined } = {}) {
      const onClose = () => sessions.delete(session);
      const session = new Session(transport, services, { grant, now, onClose });
      sessions.add(session);
      if (isClosing) session.close(shuttingDown());
      else if (sessions.size > SESSIONS_MAX) session.close(tooMany());
    },
    close() {
      isClosing = true;
      runner.close();
      for (const session of sessions) session.close(shuttingDown());
      (options.logger ?? SILENT_LOGGER).info("daemon.closed", { sessions: sessions.size });
    },
  };
}

function shuttingDown(): LunaError {
  return new LunaError("SHUTTING_DOWN", "The daemon is shutting down.");
}

function tooMany(): LunaError {
  return new LunaError("QUEUE_FULL", `${SESSIONS_MAX} clients are connected, that is the limit.`);
}
