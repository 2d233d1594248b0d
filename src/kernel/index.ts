export { ERRORS, type ErrorCode, isErrorCode, LunaError } from "./errors.ts";
export {
  createLogger,
  type LogFields,
  type Logger,
  type LogLevel,
  SILENT_LOGGER,
} from "./logger.ts";
