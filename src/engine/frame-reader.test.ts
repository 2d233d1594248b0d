import fc from "fast-check";
import { expect, test } from "vitest";
import { encodeFramePrefix, FrameReader } from "./frame-reader.ts";

test("any split of the stream gives the same frames, each in a buffer of its own", () => {
  const property = fc.property(
    fc.array(fc.uint8Array({ maxLength: 40 }), { maxLength: 6 }),
    fc.array(fc.integer({ min: 1, max: 9 }), { minLength: 1, maxLength: 8 }),
    (frames, sizes) => {
      const parts = frames.flatMap((frame) => [encodeFramePrefix(frame.byteLength), frame]);
      const stream = Buffer.concat(parts);
      const reader = new FrameReader();
      const read: Uint8Array[] = [];
      for (let offset = 0, turn = 0; offset < stream.byteLength; turn++) {
        const size = sizes[turn % sizes.length] ?? 1;
        read.push(...reader.push(stream.subarray(offset, offset + size)));
        offset += size;
      }
      expect(read.map((frame) => [...frame])).toEqual(frames.map((frame) => [...frame]));
      expect(read.every((frame) => frame.byteOffset === 0)).toBe(true);
    },
  );
  fc.assert(property);
});

test("a frame of an absurd length ends the process rather than its memory", () => {
  const prefix = encodeFramePrefix(2 ** 50);
  expect(() => new FrameReader().push(prefix)).toThrow(/announced/);
});
