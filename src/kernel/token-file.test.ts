import fc from "fast-check";
import { expect, test } from "vitest";
import { LunaError } from "./errors.ts";
import { parseTokenFile } from "./token-file.ts";

const parse = (text: string) => parseTokenFile(text, "tokens");

test("one token alone has no limits; others have theirs", () => {
  expect(parse("secret\n")).toEqual([{ token: "secret" }]);
  const text = `# who may come
a#b=c= name=studio connections=4 requests=8 rows=32 priority=bulk manage=no  # nightly

second manage=yes
`;
  expect(parse(text)).toEqual([
    {
      ...{ token: "a#b=c=", name: "studio", connections: 4, requests: 8, rows: 32 },
      ...{ priority: "bulk", mayManage: false },
    },
    { token: "second", mayManage: true },
  ]);
  expect(parse("\n# nobody\n")).toEqual([]);
});

test.each([
  ["secret rows=0", /line 1: rows is a whole number/],
  ["x\nsecret rows=many", /line 2: rows is/],
  ["secret priority=urgent", /one of interactive, normal, bulk/],
  ["secret manage=maybe", /manage is yes or no/],
  ["two words", /after the token come/],
  ["secret\nsecret", /line 2: this token has a line already/],
])("%j is refused without showing the token", (text, message) => {
  expect(() => parse(text)).toThrow(message);
  expect(() => parse(text)).not.toThrow(/secret/);
});

test("any text is a list of tokens or one CONFIG_INVALID", () => {
  fc.assert(
    fc.property(fc.string(), (text) => {
      try {
        for (const { token } of parse(text)) expect(token).toMatch(/^\S+$/);
      } catch (error) {
        expect(LunaError.isCode(error, "CONFIG_INVALID")).toBe(true);
      }
    }),
  );
});
