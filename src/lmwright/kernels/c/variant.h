/* What the variants share: their table, the forms of weights and rows, and how a row is quantised.

   Quants of weights are stored plus 128, as u8, in the order [out / 16][in / 4][16][4], so that one
   load gives four inputs of 16 outputs, and 1,024 bytes are a tile of AMX. Quants of rows are s8
   and padded with zeros, which makes the padding of the weights meaningless. The products are
   u8 × s8, and 128 × the row's sum is subtracted at the end: sums wrap in between (modulo 2^32) and
   are exact again after that. */

#ifndef LMW_VARIANT_H
#define LMW_VARIANT_H

#include <math.h>
#include <string.h>

#include "kernels.h"

#define INLINE static inline __attribute__((always_inline))

/* Rows times int8 weights: what does not depend on the blocks of outputs. */
struct int8_job {
  const uint8_t *quants;      /* of the weights */
  const float *weight_scales; /* an output, padded to 16 */
  int64_t padded, out;        /* inputs padded to 64; outputs */
  const int8_t *rows_q;       /* quantised rows; AMX reads rows up to a multiple of 32 */
  int64_t stride_q;
  const float *row_scales;
  const int32_t *row_sums;
  int64_t rows;
  const float *bias; /* or NULL */
  float *y;
  int64_t stride_y;
};

/* Rows times weights in groups; rows as above. */
struct group_job {
  int kind;
  const uint8_t *blocks; /* of 16 outputs, each as group_layout describes it */
  int64_t padded, out;
  const int8_t *rows_q;
  int64_t stride_q;
  const float *row_scales;
  const int32_t *sums32, *sums16; /* (rows, padded / 32) and (rows, padded / 16) */
  int64_t rows;
  const float *bias; /* or NULL */
  float *y;
  int64_t stride_y;
};

/* Where the parts of a block begin, in bytes; each is aligned to 64. `scales` and `mins` are fp16, a
   group (one level) or 256 inputs (two levels); `factors` and `min_factors` are bytes, a group. Of
   all four, 16 outputs stand together. Quants of 8 bits lie as those of int8 weights; of 4 bits, 64
   bytes hold four inputs of 16 outputs in the low halves and the inputs 16 later in the high ones. */
struct group_layout {
  int64_t scales, mins, factors, min_factors, quants, bytes;
};

static inline int64_t group_width(int kind) { return kind == LMW_Q6_K ? 16 : 32; }

/* What is subtracted from a quant. */
static inline int group_offset(int kind) {
  return kind == LMW_Q8_0 ? 128 : kind == LMW_Q4_0 ? 8 : kind == LMW_Q6_K ? 32 : 0;
}

static inline struct group_layout lay_out_group(int kind, int64_t padded) {
  const int two = kind == LMW_Q4_K || kind == LMW_Q6_K;
  const int64_t groups = padded / group_width(kind), outer = two ? padded / 256 : groups;
  const int64_t halves = (outer * LMW_BLOCK * 2 + 63) / 64 * 64;
  const int64_t bytes = (groups * LMW_BLOCK + 63) / 64 * 64;
  struct group_layout at;
  at.scales = 0;
  at.mins = at.scales + halves;
  at.factors = at.mins + (kind == LMW_Q4_1 || kind == LMW_Q4_K ? halves : 0);
  at.min_factors = at.factors + (two ? bytes : 0);
  at.quants = at.min_factors + (kind == LMW_Q4_K ? bytes : 0);
  at.bytes = at.quants + padded * LMW_BLOCK / (kind == LMW_Q8_0 || kind == LMW_Q6_K ? 1 : 2);
  return at;
}

/* One quantised row: `padded` quants, the scale, the sum, and the sums of groups of 32 and 16. */
struct row_quants {
  int8_t *q;
  float *scale;
  int32_t *sum, *sums32, *sums16;
};

struct variant {
  const char *name;
  char cpu_class;     /* the lowest class of CPU that allows it; '-' for all */
  int (*suits)(void); /* 0: it cannot run here; the highest is the best */
  void (*quantise)(const float *x, int64_t in, int64_t padded, struct row_quants row);
  void (*int8)(const struct int8_job *job, int64_t from, int64_t to);
  void (*group)(const struct group_job *job, int64_t from, int64_t to);
};

extern const struct variant lmw_plain, lmw_avx2, lmw_avx_vnni, lmw_avx512_vnni, lmw_amx, lmw_neon;

INLINE uint32_t bits_of(float value) {
  uint32_t bits;
  memcpy(&bits, &value, 4);
  return bits;
}

/* The scale of a row by the bits of its largest magnitude, and by what to multiply it; 0 where all
   quants are 0. */
INLINE float inverse_scale(uint32_t most, float *scale) {
  float amax;
  memcpy(&amax, &most, 4);
  const float inverse = 127.0f / amax; /* infinite for 0 and next to it */
  if (most >= 0x7f800000u) {
    *scale = NAN;
    return 0.0f;
  }
  if (bits_of(inverse) >= 0x7f800000u) {
    *scale = 0.0f;
    return 0.0f;
  }
  *scale = amax / 127.0f;
  return inverse;
}

/* The bits of this sum end in the nearest whole number, half to even, for |value| < 2^22. */
INLINE int8_t nearest(float value) { return (int8_t)bits_of(value + 12582912.0f); }

INLINE uint32_t largest_bits(const float *x, int64_t count) {
  uint32_t most = 0;
  for (int64_t i = 0; i < count; i++) {
    const uint32_t bits = bits_of(x[i]) & 0x7fffffffu;
    most = bits > most ? bits : most;
  }
  return most;
}

INLINE void quantise_row(const float *x, int64_t in, int64_t padded, struct row_quants row) {
  const float inverse = inverse_scale(largest_bits(x, in), row.scale);
  memset(row.q + in, 0, (size_t)(padded - in));
  if (inverse == 0.0f)
    memset(row.q, 0, (size_t)in);
  else
    for (int64_t i = 0; i < in; i++) row.q[i] = nearest(x[i] * inverse);
  int32_t sum = 0;
  for (int64_t group = 0; group < padded / 16; group++) {
    int32_t part = 0;
    for (int i = 0; i < 16; i++) part += row.q[group * 16 + i];
    row.sums16[group] = part;
    if (group % 2) row.sums32[group / 2] = row.sums16[group - 1] + part;
    sum += part;
  }
  *row.sum = sum;
}

/* One y, of a sum of u8 × s8. */
INLINE float finished(const struct int8_job *job, uint32_t sum, int64_t row, int64_t out) {
  const int32_t exact = (int32_t)(sum - 128u * (uint32_t)job->row_sums[row]);
  const float y = (float)exact * (job->row_scales[row] * job->weight_scales[out]);
  return job->bias ? y + job->bias[out] : y;
}

/* 16 y of weights in groups, to which the bias is still to be added. */
INLINE void store_lanes(const struct group_job *job, const float *y, int64_t row, int64_t block) {
  for (int n = 0; n < LMW_BLOCK && block * LMW_BLOCK + n < job->out; n++) {
    const int64_t out = block * LMW_BLOCK + n;
    job->y[row * job->stride_y + out] = job->bias ? y[n] + job->bias[out] : y[n];
  }
}

#endif
