/* AVX-512 with VNNI: four products of bytes a lane, 16 outputs a register. */

#include "avx512.h"
#include "cpu.h"

enum { MOST_ROWS = 8, MOST_BLOCKS = 4, AHEAD = 1536 };

static int suits(void) { return read_features().avx512_vnni ? 30 : 0; }

static void quantise(const float *x, int64_t in, int64_t padded, struct row_quants row) {
  quantise_row_avx512(x, in, padded, row);
}

/* `blocks` blocks times `rows` rows, all sums in registers. The weights of few rows come from
   memory and are asked for ahead of time. */
INLINE void tile(const struct int8_job *job, int64_t block, int64_t first, const int rows,
                 const int blocks) {
  const int64_t padded = job->padded, stride = job->stride_q;
  const uint8_t *w = job->quants + block * LMW_BLOCK * padded;
  const int8_t *q = job->rows_q + first * stride;
  __m512i sums[MOST_ROWS][MOST_BLOCKS];
  for (int r = 0; r < rows; r++)
    for (int b = 0; b < blocks; b++) sums[r][b] = _mm512_setzero_si512();
#pragma GCC unroll 2
  for (int64_t k = 0; k < padded; k += 4) {
    __m512i weights[MOST_BLOCKS];
    for (int b = 0; b < blocks; b++) {
      const uint8_t *at = w + (b * padded + k) * LMW_BLOCK;
      weights[b] = _mm512_load_si512(at);
      _mm_prefetch((const char *)at + AHEAD, _MM_HINT_T0);
    }
    for (int r = 0; r < rows; r++) {
      int32_t four;
      memcpy(&four, q + r * stride + k, 4);
      const __m512i x = _mm512_set1_epi32(four);
      for (int b = 0; b < blocks; b++) sums[r][b] = _mm512_dpbusd_epi32(sums[r][b], weights[b], x);
    }
  }
  for (int r = 0; r < rows; r++)
    for (int b = 0; b < blocks; b++) finish16(job, sums[r][b], first + r, block + b);
}

/* All rows times 4, 2 or 1 blocks; of four blocks, no more than six rows fit the registers. */
INLINE void all_rows(const struct int8_job *job, int64_t block, const int blocks) {
  const int most = blocks == 4 ? 6 : MOST_ROWS;
  for (int64_t row = 0; row < job->rows; row += most)
    switch (job->rows - row) {
      case 1: tile(job, block, row, 1, blocks); break;
      case 2: tile(job, block, row, 2, blocks); break;
      case 3: tile(job, block, row, 3, blocks); break;
      case 4: tile(job, block, row, 4, blocks); break;
      case 5: tile(job, block, row, 5, blocks); break;
      case 6: tile(job, block, row, 6, blocks); break;
      case 7: tile(job, block, row, blocks == 4 ? 6 : 7, blocks); break;
      default: tile(job, block, row, most, blocks);
    }
}

void lmw_avx512_int8(const struct int8_job *job, int64_t from, int64_t to) {
  int64_t block = from;
  if (job->rows <= 6)
    for (; block + 4 <= to; block += 4) all_rows(job, block, 4);
  for (; block + 2 <= to; block += 2) all_rows(job, block, 2);
  for (; block < to; block++) all_rows(job, block, 1);
}

/* -- weights in groups ------------------------------------------------------------------------- */

#define MOST_GROUP_ROWS 4
typedef __m512i ints;
typedef __m512 floats;

INLINE ints zero_ints(void) { return _mm512_setzero_si512(); }
INLINE ints same(int32_t value) { return _mm512_set1_epi32(value); }
INLINE ints times(ints a, ints b) { return _mm512_mullo_epi32(a, b); }
INLINE ints plus(ints a, ints b) { return _mm512_add_epi32(a, b); }
INLINE ints minus(ints a, ints b) { return _mm512_sub_epi32(a, b); }
INLINE ints dot(ints sums, ints bytes, ints four) { return _mm512_dpbusd_epi32(sums, bytes, four); }
INLINE ints low_halves(ints bytes) { return _mm512_and_si512(bytes, _mm512_set1_epi8(15)); }
INLINE ints high_halves(ints bytes) { return low_halves(_mm512_srli_epi16(bytes, 4)); }
INLINE ints load_bytes(const void *at) {
  _mm_prefetch((const char *)at + AHEAD, _MM_HINT_T0);
  return _mm512_load_si512(at);
}
INLINE ints load_u8(const void *at) { return _mm512_cvtepu8_epi32(_mm_load_si128(at)); }
INLINE ints load_s8(const void *at) { return _mm512_cvtepi8_epi32(_mm_load_si128(at)); }
INLINE floats zero_floats(void) { return _mm512_setzero_ps(); }
INLINE floats same_float(float value) { return _mm512_set1_ps(value); }
INLINE floats to_float(ints a) { return _mm512_cvtepi32_ps(a); }
INLINE floats load_halves(const void *at) { return _mm512_cvtph_ps(_mm256_load_si256(at)); }
INLINE floats add(floats a, floats b) { return _mm512_add_ps(a, b); }
INLINE floats subtract(floats a, floats b) { return _mm512_sub_ps(a, b); }
INLINE floats multiply(floats a, floats b) { return _mm512_mul_ps(a, b); }
INLINE void store(const struct group_job *job, floats y, int64_t row, int64_t block) {
  const int64_t out = block * LMW_BLOCK;
  const __mmask16 mask = lanes(job->out - out);
  if (job->bias) y = add(y, _mm512_maskz_loadu_ps(mask, job->bias + out));
  _mm512_mask_storeu_ps(job->y + row * job->stride_y + out, mask, y);
}

#include "group_kernel.h"

void lmw_avx512_group(const struct group_job *job, int64_t from, int64_t to) {
  group_any(job, from, to);
}

const struct variant lmw_avx512_vnni = {"avx512-vnni", 'B',  suits, quantise, lmw_avx512_int8,
                                        group_any};
