/* 16 lanes as two registers of 256 bits, for the variants that have no wider ones. The variant
   defines `dot8`, the product of eight lanes. */

#ifndef LMW_AVX2_H
#define LMW_AVX2_H

#include <immintrin.h>

#include "variant.h"

#define MOST_GROUP_ROWS 2
typedef struct {
  __m256i low, high;
} ints;
typedef struct {
  __m256 low, high;
} floats;

INLINE __m256i dot8(__m256i sums, __m256i bytes, __m256i four);

#define EACH_INT(f) ((ints){f(a.low, b.low), f(a.high, b.high)})
#define EACH_FLOAT(f) ((floats){f(a.low, b.low), f(a.high, b.high)})

INLINE ints same(int32_t value) {
  return (ints){_mm256_set1_epi32(value), _mm256_set1_epi32(value)};
}
INLINE ints zero_ints(void) { return same(0); }
INLINE ints times(ints a, ints b) { return EACH_INT(_mm256_mullo_epi32); }
INLINE ints plus(ints a, ints b) { return EACH_INT(_mm256_add_epi32); }
INLINE ints minus(ints a, ints b) { return EACH_INT(_mm256_sub_epi32); }
INLINE ints dot(ints sums, ints bytes, ints four) {
  return (ints){dot8(sums.low, bytes.low, four.low), dot8(sums.high, bytes.high, four.high)};
}
INLINE ints low_halves(ints bytes) {
  const __m256i mask = _mm256_set1_epi8(15);
  return (ints){_mm256_and_si256(bytes.low, mask), _mm256_and_si256(bytes.high, mask)};
}
INLINE ints high_halves(ints bytes) {
  return low_halves((ints){_mm256_srli_epi16(bytes.low, 4), _mm256_srli_epi16(bytes.high, 4)});
}
INLINE ints load_bytes(const void *at) {
  return (ints){_mm256_load_si256(at), _mm256_load_si256((const __m256i *)at + 1)};
}
INLINE ints load_u8(const void *at) {
  const __m128i bytes = _mm_load_si128(at);
  return (ints){_mm256_cvtepu8_epi32(bytes), _mm256_cvtepu8_epi32(_mm_srli_si128(bytes, 8))};
}
INLINE ints load_s8(const void *at) {
  const __m128i bytes = _mm_load_si128(at);
  return (ints){_mm256_cvtepi8_epi32(bytes), _mm256_cvtepi8_epi32(_mm_srli_si128(bytes, 8))};
}
INLINE floats same_float(float value) {
  return (floats){_mm256_set1_ps(value), _mm256_set1_ps(value)};
}
INLINE floats zero_floats(void) { return same_float(0.0f); }
INLINE floats to_float(ints a) {
  return (floats){_mm256_cvtepi32_ps(a.low), _mm256_cvtepi32_ps(a.high)};
}
INLINE floats load_halves(const void *at) {
  return (floats){_mm256_cvtph_ps(_mm_load_si128(at)),
                  _mm256_cvtph_ps(_mm_load_si128((const __m128i *)at + 1))};
}
INLINE floats add(floats a, floats b) { return EACH_FLOAT(_mm256_add_ps); }
INLINE floats subtract(floats a, floats b) { return EACH_FLOAT(_mm256_sub_ps); }
INLINE floats multiply(floats a, floats b) { return EACH_FLOAT(_mm256_mul_ps); }
INLINE void store(const struct group_job *job, floats y, int64_t row, int64_t block) {
  float found[LMW_BLOCK] __attribute__((aligned(32)));
  _mm256_store_ps(found, y.low);
  _mm256_store_ps(found + 8, y.high);
  store_lanes(job, found, row, block);
}

#include "group_kernel.h"

#endif
