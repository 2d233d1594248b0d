/**
 * Protocol Buffers wire encoding, https://protobuf.dev/programming-guides/encoding/: a message is
 * a run of fields, each a tag (field number * 8 + wire type) and a payload. Only what ONNX needs.
 */
const VARINT = 0;
const LENGTH_DELIMITED = 2;
const FIXED_32 = 5;
const encoder = new TextEncoder();

/** One encoded field, or a message: bytes that may be joined with others. */
export type Encoded = Uint8Array;

export function joinBytes(parts: readonly Uint8Array[]): Uint8Array {
  const bytes = new Uint8Array(parts.reduce((sum, part) => sum + part.byteLength, 0));
  let offset = 0;
  for (const part of parts) {
    bytes.set(part, offset);
    offset += part.byteLength;
  }
  return bytes;
}

/** Base-128 number, seven bits a byte, low bits first; negative ones as 64-bit two's complement. */
function varint(value: number): Uint8Array {
  let rest = BigInt.asUintN(64, BigInt(value));
  const bytes: number[] = [];
  while (rest > 127n) {
    bytes.push(Number(rest & 127n) | 128);
    rest >>= 7n;
  }
  bytes.push(Number(rest));
  return Uint8Array.from(bytes);
}

const tag = (field: number, wireType: number): Uint8Array => varint(field * 8 + wireType);

export function integerField(field: number, value: number): Encoded {
  return joinBytes([tag(field, VARINT), varint(value)]);
}

export function floatField(field: number, value: number): Encoded {
  const bytes = new Uint8Array(4);
  new DataView(bytes.buffer).setFloat32(0, value, true);
  return joinBytes([tag(field, FIXED_32), bytes]);
}

export function bytesField(field: number, bytes: Uint8Array): Encoded {
  return joinBytes([tag(field, LENGTH_DELIMITED), varint(bytes.byteLength), bytes]);
}

export function textField(field: number, text: string): Encoded {
  return bytesField(field, encoder.encode(text));
}

/** A nested message made of its fields. */
export function messageField(field: number, fields: readonly Encoded[]): Encoded {
  return bytesField(field, joinBytes(fields));
}
