/* Quantised rows: one block of memory with scales, sums, sums of groups, and quants. */

#ifndef LMW_ROWS_H
#define LMW_ROWS_H

#include "variant.h"

static inline int64_t round_up(int64_t value, int64_t to) { return (value + to - 1) / to * to; }

struct rows_view {
  float *scales;
  int32_t *sums, *group_sums; /* group_sums: (rows, groups) */
  int8_t *q;
  int64_t padded, groups, stride;
};

/* An odd number of cache lines a row, so that rows of a tile do not meet in few sets of a cache. */
static inline int64_t row_stride(int64_t in) {
  const int64_t padded = round_up(in, LMW_DEPTH);
  return padded / 64 % 2 ? padded : padded + 64;
}

static inline struct rows_view view_rows(const void *quantised, int64_t rows, int64_t in) {
  const int64_t whole = round_up(rows, LMW_BLOCK);
  struct rows_view view;
  view.padded = round_up(in, LMW_DEPTH);
  view.groups = view.padded / LMW_GROUP;
  view.stride = row_stride(in);
  view.scales = (float *)(uintptr_t)quantised;
  view.sums = (int32_t *)(view.scales + whole);
  view.group_sums = view.sums + whole;
  view.q = (int8_t *)(view.group_sums + whole * view.groups);
  return view;
}

/* Memory of a panel of quantised rows in scratch, at most `rows` of them; how many rows it takes. */
static inline int64_t panel_rows(int64_t rows, int64_t in) {
  const int64_t most = round_up((4 << 20) / row_stride(in) + 1, 64);
  return rows < most ? rows : most;
}

/* Quantise rows on all threads. */
void quantise_parallel(const float *x, int64_t rows, int64_t in, int64_t stride_x, void *quantised);

/* How the work of rows × blocks is cut into parts, all of about the same size. */
struct grid {
  int64_t rows_a_part, blocks_a_part, row_parts, block_parts;
};
struct grid cut_grid(int64_t rows, int64_t blocks, int64_t bytes_a_block);

#endif
