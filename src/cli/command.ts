import {
  type Config,
  flagName,
  LunaError,
  parseFlags,
  readConfig,
  SETTINGS,
  type SettingName,
  settingOptions,
} from "../kernel/index.ts";

export type Option = Readonly<{
  type: "string" | "boolean";
  multiple?: boolean;
  short?: string;
  /** Name of the value in the help, such as DIR. */
  value?: string;
  doc: string;
}>;

export type Invocation = Readonly<{
  values: Readonly<Record<string, unknown>>;
  positionals: readonly string[];
  config: Config;
  /** Writes a line of facts to standard output. */
  print: (line: string) => void;
  /** Writes a line of progress or advice to standard error. */
  note: (line: string) => void;
  /** Aborted by Ctrl-C or SIGTERM. */
  signal: AbortSignal;
}>;

/** One subcommand of `luna`; `run` resolves to the exit code. */
export type Command = Readonly<{
  summary: string;
  usage: string;
  settings: readonly SettingName[];
  /** Takes words besides flags, and says itself which. */
  hasOperands?: boolean;
  options?: Readonly<Record<string, Option>>;
  run: (invocation: Invocation) => Promise<number>;
}>;

const HELP: Option = { type: "boolean", short: "h", doc: "Show this help." };

/** The option that commands printing facts share. */
export const JSON_OPTION: Option = { type: "boolean", doc: "Print the facts as JSON." };

export function helpText(name: string, command: Command): string {
  const options = Object.entries({ ...command.options, help: HELP }).map(([flag, option]) => {
    const value = option.type === "string" ? ` ${option.value ?? "VALUE"}` : "";
    return [`--${flag}${value}`, option.doc] as const;
  });
  const settings = command.settings.map((setting) => {
    const isFlag = (SETTINGS[setting].kind as string) === "boolean";
    return [`--${flagName(setting)}${isFlag ? "" : " VALUE"}`, SETTINGS[setting].doc] as const;
  });
  const rows = [...options, ...settings];
  const width = Math.max(...rows.map(([flag]) => flag.length));
  const lines = rows.map(([flag, doc]) => `  ${flag.padEnd(width)}  ${doc}`);
  return [`Usage: luna ${name} ${command.usage}`.trimEnd(), "", command.summary, "", ...lines].join(
    "\n",
  );
}

/** Of a program whose settings cannot be used: to start it again the same way is no use. */
export const EXIT_SETTINGS = 2;
const SETTINGS_CODES: readonly string[] = ["CONFIG_INVALID", "DEVICE_UNAVAILABLE"];

/** Parses the command line, reads the settings and runs; operating errors become one line. */
export async function runCommand(
  name: string,
  command: Command,
  args: readonly string[],
): Promise<number> {
  const print = (line: string) => void process.stdout.write(`${line}\n`);
  const note = (line: string) => void process.stderr.write(`${line}\n`);
  // Whoever read the output may be gone (`| head`, a closed terminal): a daemon serves on without.
  for (const stream of [process.stdout, process.stderr]) stream.on("error", () => undefined);
  const abort = new AbortController();
  const stop = () => abort.abort(new LunaError("CANCELLED", "Stopped."));
  process.once("SIGINT", stop).once("SIGTERM", stop);
  try {
    const own = Object.entries({ ...command.options, help: HELP }).map(
      ([flag, { type, multiple = false, short }]) =>
        [flag, { type, multiple, ...(short ? { short } : {}) }] as const,
    );
    const { values, positionals } = parseFlags(args, {
      ...settingOptions(command.settings),
      ...Object.fromEntries(own),
    });
    if (values["help"]) {
      print(helpText(name, command));
      return 0;
    }
    if (positionals.length > 0 && !command.hasOperands) {
      const message = `"${positionals.join(" ")}" means nothing here: luna ${name} --help.`;
      throw new LunaError("CONFIG_INVALID", message);
    }
    const config = readConfig({ flags: values });
    return await command.run({ values, positionals, config, print, note, signal: abort.signal });
  } catch (error) {
    const known = LunaError.from(error);
    note(`luna ${name}: ${known.message} [${known.code}]`);
    if (known.code === "INTERNAL" && known.cause instanceof Error) note(known.cause.stack ?? "");
    if (SETTINGS_CODES.includes(known.code)) return EXIT_SETTINGS;
    return known.code === "CANCELLED" ? 130 : 1;
  } finally {
    process.off("SIGINT", stop).off("SIGTERM", stop);
  }
}
