import { Connection, type Peer } from "./client/index.ts";
import { createMemoryTransportPair } from "./protocol/index.ts";
import type { DaemonCore } from "./server/index.ts";

/** A session of a core in this process: the same protocol, without a socket. */
export function openCorePeer(
  core: DaemonCore,
  client: Readonly<{ name: string; version: string }>,
): Promise<Peer> {
  return Connection.open({
    open: async () => {
      const [near, far] = createMemoryTransportPair();
      core.connect(far, { isTrusted: true });
      return near;
    },
    client,
    graceMs: 0,
  });
}
