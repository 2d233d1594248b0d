import { readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import * as limits from "./limits.ts";

test("the limits in docs/protocol.md are the server's", () => {
  const page = readFileSync(join(import.meta.dirname, "../../docs/protocol.md"), "utf8");
  const expected: Record<string, number> = {
    "requests in flight in a session": limits.PENDING_PER_SESSION_MAX,
    "bytes in flight in a session": limits.PENDING_BYTES_MAX,
    sessions: limits.SESSIONS_MAX,
    "rows of x": limits.UNET_ROWS_MAX,
    "latent cells of x": limits.LATENT_CELLS_MAX,
    "tokens of a context": limits.CONTEXT_TOKENS_MAX,
    "rows of tokens": limits.TEXT_ROWS_MAX,
    "rows of a VAE request": limits.VAE_ROWS_MAX,
    "latent cells of a VAE request, all rows": limits.VAE_CELLS_MAX,
  };
  for (const [what, limit] of Object.entries(expected))
    expect(page).toContain(`| ${what} | ${limit} |`);
  expect(page).toContain(`latest ${limits.STEP_SAMPLES_MAX} steps`);
  expect(page).toContain(`${limits.HANDSHAKE_MS_MAX / 1000} seconds`);
});
