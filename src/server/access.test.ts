import { expect, test } from "vitest";
import { LunaError } from "../kernel/index.ts";
import { checkOrigin, checkToken, findGrant, isLoopback, type Knock } from "./access.ts";

const knock = (extra: Partial<Knock> = {}): Knock => ({
  host: "127.0.0.1:19283",
  origin: undefined,
  authorization: undefined,
  localAddress: "127.0.0.1",
  ...extra,
});
function verdict(extra: Partial<Knock>, allowed: string[] = []): string {
  try {
    checkOrigin(knock(extra), allowed);
    return "in";
  } catch (error) {
    return error instanceof LunaError ? error.code : String(error);
  }
}

test.each([
  [{}],
  [{ host: "localhost:1" }],
  [{ host: "[::1]:19283" }],
  [{ host: "LOCALHOST" }],
  [{ host: "192.168.1.5:19283", localAddress: "::ffff:192.168.1.5" }],
  [{ host: "[fe80::1]:19283", localAddress: "fe80::1" }],
  [{ origin: "http://127.0.0.1:19283" }],
  [{ host: "localhost", localAddress: undefined }],
])("%j may come in", (extra) => {
  expect(verdict(extra)).toBe("in");
});

test.each([
  [{ host: undefined }],
  [{ host: "" }],
  [{ host: "evil.example:19283" }],
  [{ host: "localhost.evil.example" }],
  [{ host: "127.0.0.1.evil.example:19283" }],
  [{ host: "evil.example", origin: "http://evil.example" }],
  [{ origin: "https://evil.example" }],
  [{ origin: "null" }],
  [{ origin: "https://127.0.0.1:19283" }],
  [{ origin: "http://127.0.0.1:8188" }],
])("%j stays out", (extra) => {
  expect(verdict(extra)).toBe("ORIGIN_REFUSED");
});

test("configured names are ours too", () => {
  expect(verdict({ host: "gpu.lan:19283" })).toBe("ORIGIN_REFUSED");
  expect(verdict({ host: "gpu.lan:19283" }, ["GPU.lan"])).toBe("in");
});

test("tokens: none wanted, none shown, right, wrong", () => {
  const tokens = [{ token: "secret" }, { token: "other", rows: 3 }];
  expect(checkToken(knock(), [])).toEqual({ token: "" });
  expect(checkToken(knock(), tokens)).toBeUndefined();
  expect(checkToken(knock({ authorization: "Bearer secret" }), tokens)).toBe(tokens[0]);
  expect(checkToken(knock({ authorization: "bearer other" }), tokens)).toBe(tokens[1]);
  for (const authorization of ["Bearer secre", "secret", "Bearer ", "Basic secret"]) {
    expect(() => checkToken(knock({ authorization }), tokens)).toThrow(/token/);
  }
  expect(findGrant("", [])).toBeUndefined();
});

test("loopback addresses", () => {
  expect(["localhost", "127.0.0.1", "127.9.9.9", "::1"].every(isLoopback)).toBe(true);
  expect(["0.0.0.0", "::", "192.168.0.1", "127.0.0.1.x"].some(isLoopback)).toBe(false);
});
