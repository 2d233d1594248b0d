import { Connection, type Peer } from "./client/index.ts";
import type { TokenGrant } from "./kernel/index.ts";
import { createMemoryTransportPair } from "./protocol/index.ts";
import { type DaemonCore, OPEN_GRANT } from "./server/index.ts";

/** A session of a core in this process: the same protocol, without a socket. */
export function openCorePeer(
  core: DaemonCore,
  client: Readonly<{ name: string; version: string }>,
  grant: TokenGrant = OPEN_GRANT,
): Promise<Peer> {
  return Connection.open({
    open: async () => {
      const [near, far] = createMemoryTransportPair();
      core.connect(far, { grant });
      return near;
    },
    client,
    graceMs: 0,
  });
}
