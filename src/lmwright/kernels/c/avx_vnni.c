/* AVX-VNNI: four products of bytes a lane, in registers of 256 bits. */

#include "avx2.h"
#include "cpu.h"

enum { MOST_ROWS = 6 };

static int suits(void) { return read_features().avx_vnni ? 20 : 0; }

static void quantise(const float *x, int64_t in, int64_t padded, struct row_quants row) {
  quantise_row(x, in, padded, row);
}

/* One block, which is two registers wide, times `rows` rows. */
INLINE void tile(const struct int8_job *job, int64_t block, int64_t first, const int rows) {
  const uint8_t *w = job->quants + block * LMW_BLOCK * job->padded;
  const int8_t *q = job->rows_q + first * job->stride_q;
  __m256i sums[MOST_ROWS][2];
  for (int r = 0; r < rows; r++) sums[r][0] = sums[r][1] = _mm256_setzero_si256();
  for (int64_t k = 0; k < job->padded; k += 4) {
    const __m256i low = _mm256_load_si256((const __m256i *)(w + k * LMW_BLOCK));
    const __m256i high = _mm256_load_si256((const __m256i *)(w + k * LMW_BLOCK + 32));
    for (int r = 0; r < rows; r++) {
      int32_t four;
      memcpy(&four, q + r * job->stride_q + k, 4);
      const __m256i x = _mm256_set1_epi32(four);
      sums[r][0] = _mm256_dpbusd_avx_epi32(sums[r][0], low, x);
      sums[r][1] = _mm256_dpbusd_avx_epi32(sums[r][1], high, x);
    }
  }
  for (int r = 0; r < rows; r++) {
    uint32_t found[LMW_BLOCK] __attribute__((aligned(32)));
    for (int i = 0; i < 2; i++) _mm256_store_si256((__m256i *)(found + 8 * i), sums[r][i]);
    for (int n = 0; n < LMW_BLOCK && block * LMW_BLOCK + n < job->out; n++) {
      const int64_t out = block * LMW_BLOCK + n;
      job->y[(first + r) * job->stride_y + out] = finished(job, found[n], first + r, out);
    }
  }
}

static void int8(const struct int8_job *job, int64_t from, int64_t to) {
  for (int64_t block = from; block < to; block++)
    for (int64_t row = 0; row < job->rows; row += MOST_ROWS)
      switch (job->rows - row) {
        case 1: tile(job, block, row, 1); break;
        case 2: tile(job, block, row, 2); break;
        case 3: tile(job, block, row, 3); break;
        case 4: tile(job, block, row, 4); break;
        case 5: tile(job, block, row, 5); break;
        default: tile(job, block, row, 6);
      }
}

INLINE __m256i dot8(__m256i sums, __m256i bytes, __m256i four) {
  return _mm256_dpbusd_avx_epi32(sums, bytes, four);
}

const struct variant lmw_avx_vnni = {"avx-vnni", 'A', suits, quantise, int8, group_any};
