import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import {
  configurationPage,
  flagName,
  parseFlags,
  readConfig,
  SETTINGS,
  type SettingName,
  settingOptions,
  variableName,
} from "./config.ts";

const folder = mkdtempSync(join(tmpdir(), "luna-config-"));
afterAll(() => rmSync(folder, { recursive: true }));
const invalid = (text: RegExp) =>
  expect.objectContaining({ code: "CONFIG_INVALID", message: expect.stringMatching(text) });

test("flags win over variables, variables over the file, the file over defaults", () => {
  writeFileSync(join(folder, "luna.toml"), 'port = 1\nhost = "a"\nthreads = 1\nmodels = ["x"]\n');
  const environment = { LUNA_PORT: "2", LUNA_HOST: "b" };
  const { values } = parseFlags(["--port", "3"], settingOptions(["port", "models"]));
  const config = readConfig({ flags: values, environment, folder });
  expect(config).toMatchObject({
    port: 3,
    host: "b",
    threads: 1,
    models: ["x"],
    loraCacheMiB: 1024,
  });
  rmSync(join(folder, "luna.toml"));
});

test("names of flags and variables follow from the setting's", () => {
  expect(flagName("loraCacheMiB")).toBe("lora-cache-mib");
  expect(variableName("loraCacheMiB")).toBe("LUNA_LORA_CACHE_MIB");
  expect([flagName("daemonUrl"), variableName("daemonUrl")]).toEqual(["daemon", "LUNA_DAEMON_URL"]);
  const names = Object.keys(SETTINGS) as SettingName[]; // The table's own keys.
  expect(new Set(names.map(flagName)).size).toBe(Object.keys(SETTINGS).length);
});

test("what is wrong is named with its source", () => {
  const read = (environment: Record<string, string>) => () => readConfig({ environment, folder });
  expect(read({ LUNA_PORT: "70000" })).toThrowError(invalid(/LUNA_PORT: "70000".*0 to 65535/));
  expect(read({ LUNA_LOG_LEVEL: "loud" })).toThrowError(invalid(/LUNA_LOG_LEVEL.*debug/));
  expect(read({ LUNA_TOKEN_FILE: "missing" })).toThrowError(invalid(/token file/));
  expect(() => parseFlags(["--prot", "1"], settingOptions(["port"]))).toThrowError(
    invalid(/--prot/),
  );
  writeFileSync(join(folder, "luna.toml"), "prot = 1\n");
  expect(read({})).toThrowError(invalid(/unknown setting "prot"/));
  writeFileSync(join(folder, "luna.toml"), "port = \n");
  expect(read({})).toThrowError(invalid(/not valid TOML/));
  rmSync(join(folder, "luna.toml"));
});

test("a token can come from a file", () => {
  writeFileSync(join(folder, "token"), "secret\n");
  expect(
    readConfig({ environment: { LUNA_TOKEN_FILE: join(folder, "token") }, folder }).token,
  ).toBe("secret");
});

test("docs/configuration.md is what the table says (npm run docs)", () => {
  const page = readFileSync(new URL("../../docs/configuration.md", import.meta.url), "utf8");
  expect(page).toBe(configurationPage());
});
