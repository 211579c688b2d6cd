/* Plain C: the reference of all variants, and the only one on CPUs that are named nowhere else. */

#include "lanes.h"

static int suits(void) { return 1; }

static void quantise(const float *x, int64_t in, int64_t padded, struct row_quants row) {
  quantise_row(x, in, padded, row);
}

static void int8(const struct int8_job *job, int64_t from, int64_t to) {
  for (int64_t block = from; block < to; block++) {
    const uint8_t *w = job->quants + block * LMW_BLOCK * job->padded;
    for (int64_t row = 0; row < job->rows; row++) {
      const int8_t *q = job->rows_q + row * job->stride_q;
      uint32_t sums[LMW_BLOCK] = {0};
      for (int64_t k = 0; k < job->padded; k += 4)
        for (int n = 0; n < LMW_BLOCK; n++)
          for (int j = 0; j < 4; j++)
            sums[n] += (uint32_t)((int32_t)w[k * LMW_BLOCK + n * 4 + j] * q[k + j]);
      for (int n = 0; n < LMW_BLOCK && block * LMW_BLOCK + n < job->out; n++) {
        const int64_t out = block * LMW_BLOCK + n;
        job->y[row * job->stride_y + out] = finished(job, sums[n], row, out);
      }
    }
  }
}

const struct variant lmw_plain = {"plain", '-', suits, quantise, int8, group_any};
