/* Quantised rows: one block of memory with scales, sums, sums of groups, and quants. */

#ifndef LMW_ROWS_H
#define LMW_ROWS_H

#include "variant.h"

static inline int64_t round_up(int64_t value, int64_t to) { return (value + to - 1) / to * to; }

/* AMX reads quants of rows up to a multiple of this, whatever they are. */
enum { ROWS_READ = 32 };

struct rows_view {
  float *scales;
  int32_t *sums, *sums32, *sums16; /* of rows; (rows, padded / 32); (rows, padded / 16) */
  int8_t *q;
  int64_t padded, stride;
};

/* An odd number of cache lines a row, so that rows of a tile do not meet in few sets of a cache. */
static inline int64_t row_stride(int64_t in) {
  const int64_t padded = round_up(in, LMW_DEPTH);
  return padded / 64 % 2 ? padded : padded + 64;
}

static inline struct rows_view view_rows(const void *quantised, int64_t rows, int64_t in) {
  const int64_t whole = round_up(rows, ROWS_READ);
  struct rows_view view;
  view.padded = round_up(in, LMW_DEPTH);
  view.stride = row_stride(in);
  view.scales = (float *)(uintptr_t)quantised;
  view.sums = (int32_t *)(view.scales + whole);
  view.sums32 = view.sums + whole;
  view.sums16 = view.sums32 + whole * (view.padded / 32);
  view.q = (int8_t *)(view.sums16 + whole * (view.padded / 16));
  return view;
}

/* The view of the rows from one on. */
static inline struct rows_view rows_from(struct rows_view view, int64_t row) {
  view.scales += row;
  view.sums += row;
  view.sums32 += row * (view.padded / 32);
  view.sums16 += row * (view.padded / 16);
  view.q += row * view.stride;
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

/* Quantise rows, panel by panel, and give each panel to `multiply` in parts of its grid. */
struct product {
  const void *packed, *quantised;
  int64_t rows, in; /* of the panel; inputs */
  const float *bias;
  float *y;
  int64_t stride_y;
  struct grid grid;
  int64_t blocks;
  void (*multiply)(const void *packed, struct rows_view view, int64_t rows, const float *bias, float *y,
                   int64_t stride_y, int64_t from, int64_t to);
};
int multiply_rows(struct product product, int64_t bytes_a_block, const float *x, int64_t rows,
                  int64_t stride_x);

#endif
