// Writes src/tensor/halves-wasm.ts from halves.wat. A test compares them.
import { writeFileSync } from "node:fs";
import { halvesModule } from "../test/support/halves-module.ts";

writeFileSync(new URL("../src/tensor/halves-wasm.ts", import.meta.url), await halvesModule());
