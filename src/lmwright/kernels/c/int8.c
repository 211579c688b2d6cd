/* int8 weights: packing, unpacking, and the product on all threads.

   Packed: a head of 64 bytes, the scales (fp32, padded to 16 outputs with zeros), the quants. */

#include "kernels.h"
#include "loader.h"
#include "rows.h"

#define MAGIC 0x3130384954574d4cull /* "LMWTI801" */

struct head {
  uint64_t magic;
  int64_t out, in, unused[5];
};

int64_t lmw_blocks(int64_t out) { return (out + LMW_BLOCK - 1) / LMW_BLOCK; }

static const struct head *head_of(const void *packed) { return packed; }

static float *scales_of(const void *packed) {
  return (float *)((uintptr_t)packed + sizeof(struct head));
}

static uint8_t *quants_of(const void *packed) {
  return (uint8_t *)(scales_of(packed) + round_up(head_of(packed)->out, LMW_BLOCK));
}

size_t lmw_int8_bytes(int64_t out, int64_t in) {
  if (out < 1 || in < 1 || in > LMW_MOST_INPUTS) return 0;
  const int64_t outs = round_up(out, LMW_BLOCK);
  return sizeof(struct head) + (size_t)outs * (sizeof(float) + (size_t)round_up(in, LMW_DEPTH));
}

int lmw_pack_int8_head(int64_t out, int64_t in, void *packed) {
  if (!lmw_int8_bytes(out, in)) return LMW_SHAPE;
  const struct head head = {MAGIC, out, in, {0}};
  memcpy(packed, &head, sizeof head);
  return LMW_OK;
}

struct packing {
  const float *w;
  int64_t stride, from, to;
  void *packed;
  int error; /* written by any thread, always the same value */
};

static void pack_block(struct packing *job, int64_t block) {
  const int64_t in = head_of(job->packed)->in, padded = round_up(in, LMW_DEPTH);
  uint8_t *quants = quants_of(job->packed) + block * LMW_BLOCK * padded;
  float *scales = scales_of(job->packed) + block * LMW_BLOCK;
  memset(quants, 128, (size_t)(LMW_BLOCK * padded));
  for (int n = 0; n < LMW_BLOCK; n++) {
    const int64_t out = block * LMW_BLOCK + n;
    scales[n] = 0.0f;
    if (out >= job->to) continue;
    const float *row = job->w + (out - job->from) * job->stride;
    const uint32_t most = largest_bits(row, in);
    if (most >= 0x7f800000u) {
      __atomic_store_n(&job->error, LMW_NOT_FINITE, __ATOMIC_RELAXED);
      return;
    }
    const float inverse = inverse_scale(most, scales + n);
    for (int64_t k = 0; k < in; k++)
      quants[k / 4 * 4 * LMW_BLOCK + n * 4 + k % 4] = (uint8_t)(128 + nearest(row[k] * inverse));
  }
}

static void pack_part(void *arg, int part, int parts) {
  struct packing *job = arg;
  const int64_t first = job->from / LMW_BLOCK, blocks = lmw_blocks(job->to) - first;
  for (int64_t block = blocks * part / parts; block < blocks * (part + 1) / parts; block++)
    pack_block(job, first + block);
}

int lmw_pack_int8_rows(const float *w, int64_t stride, void *packed, int64_t from, int64_t to) {
  struct packing job = {w, stride, from, to, packed, LMW_OK};
  const int64_t blocks = lmw_blocks(to) - from / LMW_BLOCK;
  lmw_parallel_parts(pack_part, &job, blocks > 256 ? 256 : (int)blocks);
  return job.error;
}

int lmw_pack_int8(const float *w, int64_t out, int64_t in, int64_t stride, void *packed) {
  const int error = lmw_pack_int8_head(out, in, packed);
  return error ? error : lmw_pack_int8_rows(w, stride, packed, 0, out);
}

void lmw_unpack_int8_rows(const void *packed, float *w, int64_t from, int64_t to) {
  const int64_t in = head_of(packed)->in, padded = round_up(in, LMW_DEPTH);
  for (int64_t out = from; out < to; out++) {
    const uint8_t *quants =
        quants_of(packed) + out / LMW_BLOCK * LMW_BLOCK * padded + out % LMW_BLOCK * 4;
    const float scale = scales_of(packed)[out];
    for (int64_t k = 0; k < in; k++)
      *w++ = (float)((int)quants[k / 4 * 4 * LMW_BLOCK + k % 4] - 128) * scale;
  }
}

void lmw_unpack_int8(const void *packed, float *w) {
  lmw_unpack_int8_rows(packed, w, 0, head_of(packed)->out);
}

static void multiply(const void *packed, struct rows_view view, int64_t rows, const float *bias,
                     float *y, int64_t stride_y, int64_t from, int64_t to) {
  const struct int8_job job = {quants_of(packed), scales_of(packed), view.padded, head_of(packed)->out,
                               view.q,            view.stride,       view.scales, view.sums,
                               rows,              bias,              y,           stride_y};
  chosen()->int8(&job, from, to);
}

void lmw_linear_int8_q(const void *packed, const void *quantised, int64_t rows, const float *bias,
                       float *y, int64_t stride_y, int64_t from, int64_t to) {
  const struct rows_view view = view_rows(quantised, rows, head_of(packed)->in);
  multiply(packed, view, rows, bias, y, stride_y, from, to);
}

int lmw_linear_int8(const void *packed, const float *x, int64_t rows, int64_t stride_x,
                    const float *bias, float *y, int64_t stride_y) {
  const struct head *head = head_of(packed);
  const struct product product = {.packed = packed,
                                  .bias = bias,
                                  .y = y,
                                  .stride_y = stride_y,
                                  .blocks = lmw_blocks(head->out),
                                  .in = head->in,
                                  .multiply = multiply};
  return multiply_rows(product, LMW_BLOCK * round_up(head->in, LMW_DEPTH), x, rows,
                       stride_x);
}
