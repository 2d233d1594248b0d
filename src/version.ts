import { readFileSync } from "node:fs";

const PACKAGE = readFileSync(new URL("../package.json", import.meta.url), "utf8");

/** Version of this package, as package.json has it. */
export const VERSION = (JSON.parse(PACKAGE) as { version: string }).version;
