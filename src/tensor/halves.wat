;; Two-byte floats in WebAssembly SIMD, four values at a time. `npm run wasm` puts the binary into
;; halves-wasm.ts. Addresses, sizes and strides are in bytes; counts, rows and columns are of values
;; and rounded up to multiples of four: the caller leaves room for what is written beyond them.
(module
  ;; 18 pages of 64 KiB; halves.ts says what lies where.
  (memory (export "memory") 18)

  ;; binary16 to float32; 0 if there is a NaN or an infinity (whose signs and payloads are kept).
  ;; Shifted by the 13 bits that a mantissa of 23 has more than one of 10, the exponent is 112 too
  ;; small: the product is exact, for subnormal halves too.
  (func (export "half") (param $from i32) (param $to i32) (param $count i32) (result i32)
    (local $end i32)
    (local $code v128) (local $bits v128) (local $isSpecial v128) (local $found v128)
    (local $magnitude v128) (local $sign v128) (local $power v128)
    (local $firstSpecial v128) (local $exponent v128)
    (local.set $magnitude (i32x4.splat (i32.const 0x7fff)))
    (local.set $sign (i32x4.splat (i32.const 0x8000)))
    (local.set $power (f32x4.splat (f32.const 0x1p112)))
    (local.set $firstSpecial (i32x4.splat (i32.const 0x0f800000)))
    (local.set $exponent (i32x4.splat (i32.const 0x7f800000)))
    (local.set $end (i32.add (local.get $to) (i32.shl (local.get $count) (i32.const 2))))
    (loop $next
      (local.set $code (v128.load16x4_u (local.get $from)))
      (local.set $bits
        (i32x4.shl (v128.and (local.get $code) (local.get $magnitude)) (i32.const 13)))
      (local.set $isSpecial (i32x4.ge_s (local.get $bits) (local.get $firstSpecial)))
      (local.set $found (v128.or (local.get $found) (local.get $isSpecial)))
      (v128.store (local.get $to)
        (v128.or
          (v128.or
            (f32x4.mul (local.get $bits) (local.get $power))
            (v128.and (local.get $isSpecial) (local.get $exponent)))
          (i32x4.shl (v128.and (local.get $code) (local.get $sign)) (i32.const 16))))
      (local.set $from (i32.add (local.get $from) (i32.const 8)))
      (br_if $next
        (i32.lt_u
          (local.tee $to (i32.add (local.get $to) (i32.const 16)))
          (local.get $end))))
    (i32.eqz (v128.any_true (local.get $found))))

  ;; bfloat16 to float32, whose upper half it is; 0 if there is a NaN or an infinity.
  (func (export "brain") (param $from i32) (param $to i32) (param $count i32) (result i32)
    (local $end i32) (local $bits v128) (local $exponent v128) (local $found v128)
    (local.set $exponent (i32x4.splat (i32.const 0x7f800000)))
    (local.set $end (i32.add (local.get $to) (i32.shl (local.get $count) (i32.const 2))))
    (loop $next
      (local.set $bits (i32x4.shl (v128.load16x4_u (local.get $from)) (i32.const 16)))
      (local.set $found
        (v128.or
          (local.get $found)
          (i32x4.eq
            (v128.and (local.get $bits) (local.get $exponent))
            (local.get $exponent))))
      (v128.store (local.get $to) (local.get $bits))
      (local.set $from (i32.add (local.get $from) (i32.const 8)))
      (br_if $next
        (i32.lt_u
          (local.tee $to (i32.add (local.get $to) (i32.const 16)))
          (local.get $end))))
    (i32.eqz (v128.any_true (local.get $found))))

  ;; Float32 values in place times a float64, rounded once, as JavaScript multiplies.
  (func (export "scale") (param $at i32) (param $count i32) (param $factor f64)
    (local $end i32) (local $values v128) (local $factors v128)
    (local.set $factors (f64x2.splat (local.get $factor)))
    (local.set $end (i32.add (local.get $at) (i32.shl (local.get $count) (i32.const 2))))
    (loop $next
      (local.set $values (v128.load (local.get $at)))
      (v128.store (local.get $at)
        (i8x16.shuffle 0 1 2 3 4 5 6 7 16 17 18 19 20 21 22 23
          (f32x4.demote_f64x2_zero
            (f64x2.mul (f64x2.promote_low_f32x4 (local.get $values)) (local.get $factors)))
          (f32x4.demote_f64x2_zero
            (f64x2.mul
              (f64x2.promote_low_f32x4
                (i8x16.shuffle 8 9 10 11 12 13 14 15 0 1 2 3 4 5 6 7
                  (local.get $values) (local.get $values)))
              (local.get $factors)))))
      (br_if $next
        (i32.lt_u
          (local.tee $at (i32.add (local.get $at) (i32.const 16)))
          (local.get $end)))))

  ;; Transposes two-byte codes in tiles of 4 x 4, down the rows of four columns at a time.
  (func (export "transpose")
    (param $from i32) (param $fromStride i32) (param $to i32) (param $toStride i32)
    (param $rows i32) (param $columns i32)
    (local $row i32) (local $source i32) (local $target i32)
    (local $upper v128) (local $lower v128) (local $pair v128)
    (loop $nextColumns
      (local.set $source (local.get $from))
      (local.set $target (local.get $to))
      (local.set $row (i32.const 0))
      (loop $nextRows
        ;; Rows a b c d: first a0 b0 a1 b1 .. and c0 d0 c1 d1 .., then a0 b0 c0 d0 a1 b1 c1 d1 ..
        (local.set $upper
          (i8x16.shuffle 0 1 16 17 2 3 18 19 4 5 20 21 6 7 22 23
            (v128.load64_zero (local.get $source))
            (v128.load64_zero
              (local.tee $source (i32.add (local.get $source) (local.get $fromStride))))))
        (local.set $lower
          (i8x16.shuffle 0 1 16 17 2 3 18 19 4 5 20 21 6 7 22 23
            (v128.load64_zero
              (local.tee $source (i32.add (local.get $source) (local.get $fromStride))))
            (v128.load64_zero
              (local.tee $source (i32.add (local.get $source) (local.get $fromStride))))))
        (local.set $source (i32.add (local.get $source) (local.get $fromStride)))
        (local.set $pair
          (i8x16.shuffle 0 1 2 3 16 17 18 19 4 5 6 7 20 21 22 23
            (local.get $upper) (local.get $lower)))
        (v128.store64_lane 0 (local.get $target) (local.get $pair))
        (v128.store64_lane 1
          (i32.add (local.get $target) (local.get $toStride))
          (local.get $pair))
        (local.set $pair
          (i8x16.shuffle 8 9 10 11 24 25 26 27 12 13 14 15 28 29 30 31
            (local.get $upper) (local.get $lower)))
        (v128.store64_lane 0
          (i32.add (local.get $target) (i32.shl (local.get $toStride) (i32.const 1)))
          (local.get $pair))
        (v128.store64_lane 1
          (i32.add (local.get $target) (i32.mul (local.get $toStride) (i32.const 3)))
          (local.get $pair))
        (local.set $target (i32.add (local.get $target) (i32.const 8)))
        (br_if $nextRows
          (i32.lt_u
            (local.tee $row (i32.add (local.get $row) (i32.const 4)))
            (local.get $rows))))
      (local.set $from (i32.add (local.get $from) (i32.const 8)))
      (local.set $to (i32.add (local.get $to) (i32.shl (local.get $toStride) (i32.const 2))))
      (br_if $nextColumns
        (i32.gt_s
          (local.tee $columns (i32.sub (local.get $columns) (i32.const 4)))
          (i32.const 0))))))
