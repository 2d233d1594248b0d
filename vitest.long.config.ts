/** Tests that take minutes or hours, on demand: `npm run faults`, `npm run fuzz`. */
import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    include: ["test/long/**/*.test.ts"],
    testTimeout: 4 * 3600 * 1000,
    fileParallelism: false,
    disableConsoleIntercept: true,
    env: { ORT_DISABLE_TELEMETRY: "1" },
  },
});
