export type LogLevel = "debug" | "info" | "warn" | "error";
export type LogFields = Readonly<Record<string, unknown>>;

/** Structured log: a stable event name and fields; never prompts, tokens or tensor data. */
export interface Logger {
  debug(event: string, fields?: LogFields): void;
  info(event: string, fields?: LogFields): void;
  warn(event: string, fields?: LogFields): void;
  error(event: string, fields?: LogFields): void;
}

const LEVELS: readonly LogLevel[] = ["debug", "info", "warn", "error"];

/** Writes each entry of at least `level` as one line of JSON. */
export function createLogger(write: (line: string) => void, level: LogLevel = "info"): Logger {
  const lowest = LEVELS.indexOf(level);
  const log =
    (entryLevel: LogLevel) =>
    (event: string, fields: LogFields = {}) => {
      if (LEVELS.indexOf(entryLevel) < lowest) return;
      write(
        JSON.stringify({ time: new Date().toISOString(), level: entryLevel, event, ...fields }),
      );
    };
  return { debug: log("debug"), info: log("info"), warn: log("warn"), error: log("error") };
}

export const SILENT_LOGGER: Logger = createLogger(() => undefined);
