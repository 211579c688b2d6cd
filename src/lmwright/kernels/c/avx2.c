/* AVX2: bytes are widened to 16 bits before they are multiplied, for the product of bytes adds
   pairs with saturation. */

#include "avx2.h"
#include "cpu.h"

enum { MOST_ROWS = 3 };

static int suits(void) { return read_features().avx2 ? 10 : 0; }

static void quantise(const float *x, int64_t in, int64_t padded, struct row_quants row) {
  quantise_row(x, in, padded, row);
}

/* One block times `rows` rows. A register holds two partial sums for each of four outputs. */
INLINE void tile(const struct int8_job *job, int64_t block, int64_t first, const int rows) {
  const uint8_t *w = job->quants + block * LMW_BLOCK * job->padded;
  const int8_t *q = job->rows_q + first * job->stride_q;
  __m256i sums[MOST_ROWS][4];
  for (int r = 0; r < rows; r++)
    for (int i = 0; i < 4; i++) sums[r][i] = _mm256_setzero_si256();
  for (int64_t k = 0; k < job->padded; k += 4) {
    __m256i x[MOST_ROWS];
    for (int r = 0; r < rows; r++) {
      int32_t four;
      memcpy(&four, q + r * job->stride_q + k, 4);
      x[r] = _mm256_cvtepi8_epi16(_mm_set1_epi32(four));
    }
    for (int i = 0; i < 4; i++) {
      const __m128i bytes = _mm_load_si128((const __m128i *)(w + k * LMW_BLOCK + i * 16));
      const __m256i wide = _mm256_cvtepu8_epi16(bytes);
      for (int r = 0; r < rows; r++)
        sums[r][i] = _mm256_add_epi32(sums[r][i], _mm256_madd_epi16(wide, x[r]));
    }
  }
  for (int r = 0; r < rows; r++) {
    uint32_t found[LMW_BLOCK] __attribute__((aligned(32)));
    for (int i = 0; i < 2; i++) {
      const __m256i both = _mm256_hadd_epi32(sums[r][2 * i], sums[r][2 * i + 1]);
      _mm256_store_si256((__m256i *)(found + 8 * i),
                         _mm256_permute4x64_epi64(both, _MM_SHUFFLE(3, 1, 2, 0)));
    }
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
        default: tile(job, block, row, 3);
      }
}

/* Widened as above: the even inputs of a lane, then the odd ones. */
INLINE __m256i dot8(__m256i sums, __m256i bytes, __m256i four) {
  const __m256i even = _mm256_and_si256(bytes, _mm256_set1_epi16(255));
  const __m256i odd = _mm256_srli_epi16(bytes, 8);
  const __m256i four_even = _mm256_srai_epi16(_mm256_slli_epi16(four, 8), 8);
  const __m256i four_odd = _mm256_srai_epi16(four, 8);
  return _mm256_add_epi32(sums, _mm256_add_epi32(_mm256_madd_epi16(even, four_even),
                                                 _mm256_madd_epi16(odd, four_odd)));
}

const struct variant lmw_avx2 = {"avx2", 'A', suits, quantise, int8, group_any};
