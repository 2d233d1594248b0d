/**
 * Numbers both sides of a reference test can compute (test/reference/seeded.py): element i of the
 * tensor `name` is murmur3's finalizer of i * 2654435761 + FNV-1a(name), as a fraction in [-1, 1).
 */
function fnv1a(text: string): number {
  let hash = 0x811c9dc5;
  for (const byte of new TextEncoder().encode(text)) hash = Math.imul(hash ^ byte, 0x01000193);
  return hash;
}

function mix(value: number): number {
  let hash = value;
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
  return (hash ^ (hash >>> 16)) >>> 0;
}

/** Uniform values of variance scale² / 3 around `offset`, rounded to float32. */
export function seededValues(name: string, count: number, scale = 1, offset = 0): Float32Array {
  const seed = fnv1a(name);
  return Float32Array.from(
    { length: count },
    (_, index) => (mix((Math.imul(index, 2654435761) + seed) | 0) / 2 ** 31 - 1) * scale + offset,
  );
}

/** Weights of unit gain: norms near 1, biases small, the rest by their inputs. */
export function seededWeight(name: string, shape: readonly number[]): Float32Array {
  const count = shape.reduce((product, axis) => product * axis, 1);
  if (shape.length > 1) return seededValues(name, count, Math.sqrt((3 * (shape[0] ?? 1)) / count));
  return seededValues(name, count, 0.1, name.endsWith(".weight") ? 1 : 0);
}
