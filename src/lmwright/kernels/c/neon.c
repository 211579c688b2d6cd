/* NEON with dot products of bytes (Armv8.2). They are of equal signs: 128 is taken off the weights
   again, and nothing is left to subtract. */

#include <arm_neon.h>
#ifdef __linux__
#include <sys/auxv.h>
#endif

#include "lanes.h"

enum { MOST_ROWS = 4 };

static int suits(void) {
#ifdef __linux__
  return getauxval(AT_HWCAP) >> 20 & 1 ? 10 : 0; /* HWCAP_ASIMDDP */
#else
  return 10; /* Apple's CPUs all have it */
#endif
}

static void quantise(const float *x, int64_t in, int64_t padded, struct row_quants row) {
  quantise_row(x, in, padded, row);
}

/* One block, which is four registers wide, times `rows` rows. */
INLINE void tile(const struct int8_job *job, int64_t block, int64_t first, const int rows) {
  const uint8_t *w = job->quants + block * LMW_BLOCK * job->padded;
  const int8_t *q = job->rows_q + first * job->stride_q;
  const uint8x16_t middle = vdupq_n_u8(128);
  int32x4_t sums[MOST_ROWS][4];
  for (int r = 0; r < rows; r++)
    for (int i = 0; i < 4; i++) sums[r][i] = vdupq_n_s32(0);
  for (int64_t k = 0; k < job->padded; k += 4)
    for (int i = 0; i < 4; i++) {
      const uint8x16_t bytes = vld1q_u8(w + k * LMW_BLOCK + i * 16);
      const int8x16_t weights = vreinterpretq_s8_u8(veorq_u8(bytes, middle));
      for (int r = 0; r < rows; r++) {
        int32_t four;
        memcpy(&four, q + r * job->stride_q + k, 4);
        sums[r][i] = vdotq_s32(sums[r][i], weights, vreinterpretq_s8_s32(vdupq_n_s32(four)));
      }
    }
  for (int r = 0; r < rows; r++) {
    int32_t found[LMW_BLOCK];
    for (int i = 0; i < 4; i++) vst1q_s32(found + 4 * i, sums[r][i]);
    for (int n = 0; n < LMW_BLOCK && block * LMW_BLOCK + n < job->out; n++) {
      const int64_t out = block * LMW_BLOCK + n;
      const float y =
          (float)found[n] * (job->row_scales[first + r] * job->weight_scales[out]);
      job->y[(first + r) * job->stride_y + out] = job->bias ? y + job->bias[out] : y;
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
        default: tile(job, block, row, 4);
      }
}

const struct variant lmw_neon = {"neon", '-', suits, quantise, int8, group_any};
