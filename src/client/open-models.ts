import { LunaError } from "../kernel/index.ts";
import { Connection } from "./connection.ts";
import { FallbackPeer } from "./fallback-peer.ts";
import { LunaClient } from "./luna-client.ts";
import { DAEMON_URL, openWebSocket } from "./open-web-socket.ts";
import type { Peer } from "./peer.ts";

/** The seed's daemon_mode: where the models of an instance are computed. */
export type DaemonMode = "auto" | "force_daemon" | "force_local";

export type OpenModelsOptions = Readonly<{
  mode: DaemonMode;
  client: Readonly<{ name: string; version: string }>;
  /** Default ws://127.0.0.1:19283. */
  url?: string;
  token?: string;
  /** Opens this process's own engine; called at most once, and only when it is needed. */
  local?: () => Promise<Peer>;
  /** How long a lost daemon may take to come back. */
  graceMs?: number;
  /** Lines for a person. */
  say?: (line: string) => void;
}>;

/**
 * Connects to the models as `mode` says. auto: the daemon if it answers, otherwise the local
 * engine with one warning, also when the daemon is lost later. force_daemon: throws
 * DAEMON_NOT_RUNNING without one. force_local: never asks for a daemon.
 */
export async function openModels(options: OpenModelsOptions): Promise<LunaClient> {
  const { mode, local, say = () => undefined } = options;
  if (mode === "force_local") return openLocal(options);
  try {
    const daemon = await openDaemon(options);
    if (mode === "force_daemon" || !local) return new LunaClient(daemon, { isDaemon: yes, say });
    let isDaemon = true;
    const peer = new FallbackPeer(daemon, local, (reason) => {
      isDaemon = false;
      say(`[LunaClient] Warning: ${reason.message} Going on with the local engine.`);
    });
    return new LunaClient(peer, { isDaemon: () => isDaemon, say });
  } catch (error) {
    const isAway = LunaError.isCode(error, "DAEMON_NOT_RUNNING");
    if (mode === "force_daemon" || !isAway || !local) throw error;
    say("[LunaClient] Warning: Daemon is not running, using the local engine.");
    return openLocal(options);
  }
}

const yes = (): boolean => true;

function openDaemon(options: OpenModelsOptions): Promise<Connection> {
  const { url = DAEMON_URL, token, client, graceMs, say } = options;
  return Connection.open({
    open: () => openWebSocket(url, token),
    client,
    ...(token === undefined ? {} : { token }),
    ...(graceMs === undefined ? {} : { graceMs }),
    ...(say === undefined ? {} : { say }),
  });
}

async function openLocal({ local, say }: OpenModelsOptions): Promise<LunaClient> {
  if (!local) {
    throw new LunaError("CONFIG_INVALID", "daemon_mode needs a local engine, and none was given.");
  }
  const peer = await local();
  return new LunaClient(peer, { isDaemon: () => false, ...(say ? { say } : {}) });
}
