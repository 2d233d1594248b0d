/** For programs around a daemon: nodes of their own, a daemon inside. Clients take "luna-daemon/client". */
export { createDaemon, type Daemon, startDaemon } from "./daemon.ts";
export { type Config, LunaError, readConfig } from "./kernel/index.ts";
export {
  defineNode,
  ExecutionBlocker,
  type ExpandedGraph,
  type NodeContext,
  type NodeDefinition,
  type NodeResult,
  output,
} from "./nodes/index.ts";
