/* 16 lanes as arrays, for the variants that have no instructions for groups. */

#ifndef LMW_LANES_H
#define LMW_LANES_H

#include "variant.h"

/* fp16 to fp32, exactly. */
INLINE float half(uint16_t bits) {
  const uint32_t sign = (uint32_t)(bits & 0x8000) << 16, mantissa = bits & 0x3ff;
  const uint32_t exponent = bits >> 10 & 31;
  float value;
  if (exponent == 0) {
    value = (float)mantissa * 0x1p-24f;
    return sign ? -value : value;
  }
  const uint32_t wide = sign | (exponent == 31 ? 0x7f800000u : (exponent + 112) << 23) | mantissa << 13;
  memcpy(&value, &wide, 4);
  return value;
}

#define MOST_GROUP_ROWS 1
typedef struct {
  int32_t at[LMW_BLOCK];
} ints;
typedef struct {
  float at[LMW_BLOCK];
} floats;

#define LANES(type, value)                                  \
  type found;                                               \
  for (int n = 0; n < LMW_BLOCK; n++) found.at[n] = (value); \
  return found

INLINE ints same(int32_t value) { LANES(ints, value); }
INLINE ints zero_ints(void) { return same(0); }
INLINE ints times(ints a, ints b) { LANES(ints, a.at[n] * b.at[n]); }
INLINE ints plus(ints a, ints b) { LANES(ints, a.at[n] + b.at[n]); }
INLINE ints minus(ints a, ints b) { LANES(ints, a.at[n] - b.at[n]); }
INLINE int32_t byte_of(int32_t four, int i) { return (int32_t)((uint32_t)four >> 8 * i & 255); }
INLINE int32_t dot4(int32_t bytes, int32_t four) {
  int32_t sum = 0;
  for (int i = 0; i < 4; i++) sum += byte_of(bytes, i) * (int8_t)byte_of(four, i);
  return sum;
}
INLINE ints dot(ints sums, ints bytes, ints four) {
  LANES(ints, sums.at[n] + dot4(bytes.at[n], four.at[n]));
}
INLINE ints low_halves(ints bytes) { LANES(ints, bytes.at[n] & 0x0f0f0f0f); }
INLINE ints high_halves(ints bytes) { LANES(ints, bytes.at[n] >> 4 & 0x0f0f0f0f); }
INLINE ints load_bytes(const void *at) {
  ints found;
  memcpy(&found, at, sizeof found);
  return found;
}
INLINE ints load_u8(const void *at) { LANES(ints, ((const uint8_t *)at)[n]); }
INLINE ints load_s8(const void *at) { LANES(ints, ((const int8_t *)at)[n]); }
INLINE floats same_float(float value) { LANES(floats, value); }
INLINE floats zero_floats(void) { return same_float(0.0f); }
INLINE floats to_float(ints a) { LANES(floats, (float)a.at[n]); }
INLINE floats load_halves(const void *at) { LANES(floats, half(((const uint16_t *)at)[n])); }
INLINE floats add(floats a, floats b) { LANES(floats, a.at[n] + b.at[n]); }
INLINE floats subtract(floats a, floats b) { LANES(floats, a.at[n] - b.at[n]); }
INLINE floats multiply(floats a, floats b) { LANES(floats, a.at[n] * b.at[n]); }
INLINE void store(const struct group_job *job, floats y, int64_t row, int64_t block) {
  store_lanes(job, y.at, row, block);
}

#include "group_kernel.h"

#endif
