import { PNG } from "pngjs";
import { expect, test } from "vitest";
import { contactSheet, wrapCaption } from "./contact-sheet.ts";
import { formatBytes, quantile, textTable } from "./table.ts";

test("a sheet has a cell for each picture and ink under it", () => {
  const picture = new PNG({ width: 8, height: 8 });
  picture.data.fill(128);
  const png = PNG.sync.write(picture);
  const sheet = PNG.sync.read(
    contactSheet([[{ png, caption: ["rocket"] }], [{ png, caption: [] }]]),
  );
  expect(sheet.width).toBe(12 + 256 + 12);
  const ink = (top: number, bottom: number) =>
    sheet.data
      .subarray(top * sheet.width * 4, bottom * sheet.width * 4)
      .some((value) => value === 40);
  expect(ink(12 + 256, 12 + 256 + 20)).toBe(true);
  expect(ink(12, 12 + 256)).toBe(false);
});

test("captions break at spaces", () => {
  expect(wrapCaption("one two three", 7)).toEqual(["one two", "three"]);
});

test("tables align, bytes and quantiles read well", () => {
  expect(
    textTable(
      ["name", "n"],
      [
        ["a", "1"],
        ["bcd", "10"],
      ],
    ),
  ).toBe("name   n\n----  --\na      1\nbcd   10");
  const texts = textTable(["test"], [["1 loading"], ["2 b"]]);
  expect(texts).toBe("test\n---------\n1 loading\n2 b");
  expect(formatBytes(1_234_000)).toBe("1.2 MB");
  expect(quantile([3, 1, 2], 0.5)).toBe(2);
  expect(quantile([], 0.5)).toBeNaN();
});
