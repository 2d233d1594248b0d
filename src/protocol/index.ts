export { fromErrorMessage, toErrorMessage } from "./error-message.ts";
export type { BatchEvent, WatchEvent } from "./events.ts";
export {
  decodeFrame,
  encodeFrame,
  type Frame,
  frameBytes,
  joinFrame,
  NO_TENSORS,
} from "./frame.ts";
export { FRAME_BYTES_MAX, HELLO_BYTES_MAX } from "./limits.ts";
export {
  type ClientMessage,
  type DaemonMessage,
  type ErrorMessage,
  type EventMessage,
  errorSchema,
  type Hello,
  type Message,
  PROTOCOL_VERSION,
  parseClientMessage,
  parseDaemonMessage,
  type Request,
  type Result,
  requestIdOf,
  type Timings,
  type Welcome,
} from "./messages.ts";
export { isOp, OPS, type Op, parseResultData, type RequestBody, type ResultData } from "./ops.ts";
export {
  type ControlSpec,
  type DaemonStatus,
  type Features,
  type LoraSpec,
  type ModelList,
  statusSchema,
  type Tile,
} from "./schemas.ts";
export { createMemoryTransportPair, type Transport } from "./transport.ts";
export { createWebSocketTransport, type SocketLimits } from "./web-socket-transport.ts";
