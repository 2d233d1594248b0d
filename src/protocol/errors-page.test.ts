import { readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { ERRORS } from "../kernel/index.ts";

test("docs/errors.md lists exactly the codes of kernel/errors.ts, with status and retry", () => {
  const page = readFileSync(join(import.meta.dirname, "../../docs/errors.md"), "utf8");
  const written = [...page.matchAll(/^\| ([A-Z_]+) \| (\d+) \| (yes|no) \| (.+) \|$/gm)].map(
    ([, code, status, retry]) => [code, Number(status), retry],
  );
  const coded = Object.entries(ERRORS).map(([code, { status, retryable }]) => {
    return [code, status, retryable ? "yes" : "no"];
  });
  expect(written).toEqual(coded);
});
