// Writes the generated pages under docs/. Tests compare them with their source.
import { writeFileSync } from "node:fs";
import { configurationPage } from "../src/kernel/index.ts";

writeFileSync(new URL("../docs/configuration.md", import.meta.url), configurationPage());
