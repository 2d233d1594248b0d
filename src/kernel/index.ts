export {
  type Config,
  childEnvironment,
  configurationPage,
  type Environment,
  flagName,
  parseFlags,
  readConfig,
  SETTINGS,
  type SettingName,
  settingOptions,
  variableName,
} from "./config.ts";
export { ERRORS, type ErrorCode, isErrorCode, LunaError } from "./errors.ts";
export {
  createLogger,
  type LogFields,
  type Logger,
  type LogLevel,
  SILENT_LOGGER,
} from "./logger.ts";
export { parseTokenFile, type TokenGrant } from "./token-file.ts";
