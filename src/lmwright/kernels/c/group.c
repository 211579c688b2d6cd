/* Weights in groups: the product on all threads. They are packed by who knows their format. */

#include "kernels.h"
#include "loader.h"
#include "rows.h"

struct head {
  uint64_t magic;
  int64_t out, in, kind, unused[4];
};

static const struct head *head_of(const void *packed) { return packed; }

size_t lmw_group_bytes(int kind, int64_t out, int64_t in) {
  const int two = kind == LMW_Q4_K || kind == LMW_Q6_K;
  if (kind < LMW_Q8_0 || kind > LMW_Q6_K || out < 1 || in < 1 || in > LMW_MOST_INPUTS) return 0;
  if (two && in % 256) return 0;
  const struct group_layout at = lay_out_group(kind, round_up(in, LMW_DEPTH));
  return sizeof(struct head) + (size_t)(lmw_blocks(out) * at.bytes);
}

static void multiply(const void *packed, struct rows_view view, int64_t rows, const float *bias,
                     float *y, int64_t stride_y, int64_t from, int64_t to) {
  const struct head *head = head_of(packed);
  const struct group_job job = {(int)head->kind, (const uint8_t *)(head + 1), view.padded, head->out,
                                view.q, view.stride, view.scales, view.sums32, view.sums16, rows, bias,
                                y, stride_y};
  chosen()->group(&job, from, to);
}

void lmw_linear_group_q(const void *packed, const void *quantised, int64_t rows, const float *bias,
                        float *y, int64_t stride_y, int64_t from, int64_t to) {
  const struct rows_view view = view_rows(quantised, rows, head_of(packed)->in);
  multiply(packed, view, rows, bias, y, stride_y, from, to);
}

int lmw_linear_group(const void *packed, const float *x, int64_t rows, int64_t stride_x,
                     const float *bias, float *y, int64_t stride_y) {
  const struct head *head = head_of(packed);
  const struct product product = {.packed = packed,
                                  .bias = bias,
                                  .y = y,
                                  .stride_y = stride_y,
                                  .blocks = lmw_blocks(head->out),
                                  .in = head->in,
                                  .multiply = multiply};
  const int64_t bytes = lay_out_group((int)head->kind, round_up(head->in, LMW_DEPTH)).bytes;
  return multiply_rows(product, bytes, x, rows, stride_x);
}
