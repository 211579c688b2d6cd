/* AVX-512 with VNNI: how rows are quantised, and the end of a product, for the variants that have
   it. */

#ifndef LMW_AVX512_H
#define LMW_AVX512_H

#include <immintrin.h>

#include "variant.h"

INLINE __mmask16 lanes(int64_t count) {
  return count >= 16 ? (__mmask16)0xffff : (__mmask16)((1u << count) - 1u);
}

static inline void quantise_row_avx512(const float *x, int64_t in, int64_t padded,
                                       struct row_quants row) {
  const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
  __m512i most[4];
  for (int i = 0; i < 4; i++) most[i] = _mm512_setzero_si512();
  int64_t k = 0;
  for (; k + 64 <= in; k += 64)
    for (int i = 0; i < 4; i++)
      most[i] = _mm512_max_epu32(
          most[i], _mm512_and_si512(magnitude, _mm512_loadu_si512(x + k + 16 * i)));
  for (; k < in; k += 16)
    most[0] = _mm512_max_epu32(
        most[0], _mm512_and_si512(magnitude, _mm512_maskz_loadu_epi32(lanes(in - k), x + k)));
  most[0] = _mm512_max_epu32(_mm512_max_epu32(most[0], most[1]), _mm512_max_epu32(most[2], most[3]));
  const float inverse = inverse_scale(_mm512_reduce_max_epu32(most[0]), row.scale);
  if (inverse == 0.0f) {
    memset(row.q, 0, (size_t)padded);
    memset(row.sums32, 0, (size_t)(padded / 32) * sizeof(int32_t));
    memset(row.sums16, 0, (size_t)(padded / 16) * sizeof(int32_t));
    *row.sum = 0;
    return;
  }
  const __m512 by = _mm512_set1_ps(inverse);
  /* Narrowing works within lanes of 128 bits; this puts their parts into order again. */
  const __m512i order = _mm512_set_epi32(15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5, 1, 12, 8, 4, 0);
  const __m512i middle = _mm512_set1_epi8((char)0x80);
  const __m512i evens = _mm512_set_epi32(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 12, 8, 4, 0);
  __m128i total = _mm_setzero_si128();
  for (k = 0; k < padded; k += 64) {
    __m512i whole[4];
    for (int i = 0; i < 4; i++) {
      const int64_t left = in - k - 16 * i;
      const __m512 part = left >= 16  ? _mm512_loadu_ps(x + k + 16 * i)
                          : left <= 0 ? _mm512_setzero_ps()
                                      : _mm512_maskz_loadu_ps(lanes(left), x + k + 16 * i);
      whole[i] = _mm512_cvt_roundps_epi32(_mm512_mul_ps(part, by),
                                          _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    }
    const __m512i bytes = _mm512_permutexvar_epi32(
        order, _mm512_packs_epi16(_mm512_packs_epi32(whole[0], whole[1]),
                                  _mm512_packs_epi32(whole[2], whole[3])));
    _mm512_store_si512(row.q + k, bytes);
    /* Sums of 8 bytes plus 128 each, then of 16, then of 32. */
    __m512i sums = _mm512_sad_epu8(_mm512_xor_si512(bytes, middle), _mm512_setzero_si512());
    sums = _mm512_add_epi64(sums, _mm512_permutex_epi64(sums, _MM_SHUFFLE(2, 3, 0, 1)));
    sums = _mm512_sub_epi64(sums, _mm512_set1_epi64(128 * 16));
    const __m128i four = _mm512_castsi512_si128(_mm512_permutexvar_epi32(evens, sums));
    _mm_storeu_si128((__m128i *)(row.sums16 + k / 16), four);
    _mm_storel_epi64((__m128i *)(row.sums32 + k / 32), _mm_hadd_epi32(four, four));
    total = _mm_add_epi32(total, four);
  }
  total = _mm_hadd_epi32(total, total);
  *row.sum = _mm_cvtsi128_si32(_mm_hadd_epi32(total, total));
}

/* 16 outputs of a row, of sums of u8 × s8. */
INLINE void finish16(const struct int8_job *job, __m512i sums, int64_t row, int64_t block) {
  const int64_t out = block * LMW_BLOCK;
  const __mmask16 mask = lanes(job->out - out);
  const __m512i extra = _mm512_set1_epi32((int32_t)(128u * (uint32_t)job->row_sums[row]));
  const __m512 scale =
      _mm512_mul_ps(_mm512_set1_ps(job->row_scales[row]), _mm512_load_ps(job->weight_scales + out));
  __m512 y = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_sub_epi32(sums, extra)), scale);
  if (job->bias) y = _mm512_add_ps(y, _mm512_maskz_loadu_ps(mask, job->bias + out));
  _mm512_mask_storeu_ps(job->y + row * job->stride_y + out, mask, y);
}

/* Few rows, or a CPU without AMX. */
void lmw_avx512_int8(const struct int8_job *job, int64_t from, int64_t to);
void lmw_avx512_group(const struct group_job *job, int64_t from, int64_t to);

#endif
