/* Quantising rows, and cutting a product into parts. */

#include "rows.h"

#include "loader.h"
#include "threads.h"

size_t lmw_quantised_bytes(int64_t rows, int64_t in) {
  const int64_t whole = round_up(rows, ROWS_READ), padded = round_up(in, LMW_DEPTH);
  return (size_t)(whole * (8 + 4 * (padded / 32 + padded / 16) + row_stride(in)));
}

void lmw_quantise_rows(const float *x, int64_t rows, int64_t in, int64_t stride_x, void *quantised,
                       int64_t from, int64_t to) {
  const struct rows_view view = view_rows(quantised, rows, in);
  const struct variant *variant = chosen();
  for (int64_t row = from; row < to; row++) {
    const struct row_quants one = {view.q + row * view.stride, view.scales + row, view.sums + row,
                                   view.sums32 + row * (view.padded / 32),
                                   view.sums16 + row * (view.padded / 16)};
    variant->quantise(x + row * stride_x, in, view.padded, one);
  }
}

void lmw_quantise(const float *x, int64_t rows, int64_t in, int64_t stride_x, void *quantised) {
  lmw_quantise_rows(x, rows, in, stride_x, quantised, 0, rows);
}

struct quantising {
  const float *x;
  int64_t rows, in, stride;
  void *quantised;
};

static void quantise_part(void *arg, int part, int parts) {
  const struct quantising *job = arg;
  lmw_quantise_rows(job->x, job->rows, job->in, job->stride, job->quantised,
                    job->rows * part / parts, job->rows * (part + 1) / parts);
}

void quantise_parallel(const float *x, int64_t rows, int64_t in, int64_t stride_x, void *quantised) {
  struct quantising job = {x, rows, in, stride_x, quantised};
  const int64_t parts = rows * in / 16384; /* below that a region costs more than it gains */
  const int most = 4 * lmw_threads();
  lmw_parallel_parts(quantise_part, &job, parts > most ? most : parts > rows ? (int)rows : (int)parts);
}

struct grid cut_grid(int64_t rows, int64_t blocks, int64_t bytes_a_block) {
  const int64_t threads = lmw_threads();
  struct grid grid = {rows, blocks, 1, 1};
  /* Work in bytes of weights: from some rows on, computing takes longer than reading. */
  const int64_t work = blocks * bytes_a_block * (1 + rows / 8);
  int64_t parts = work >> 15;
  if (threads < 2 || parts < 2) return grid;
  if (parts > 8 * threads) parts = 8 * threads;
  const int64_t fours = (blocks + 3) / 4;
  grid.blocks_a_part = 4 * ((fours + parts - 1) / parts);
  grid.block_parts = (blocks + grid.blocks_a_part - 1) / grid.blocks_a_part;
  if (grid.block_parts < parts && rows >= 64) {
    const int64_t wanted = (parts + grid.block_parts - 1) / grid.block_parts;
    grid.rows_a_part = round_up((rows + wanted - 1) / wanted, 32);
    grid.row_parts = (rows + grid.rows_a_part - 1) / grid.rows_a_part;
  }
  return grid;
}

static void multiply_parts(void *arg, int part, int parts) {
  const struct product *product = arg;
  const struct grid *grid = &product->grid;
  const int64_t count = grid->row_parts * grid->block_parts;
  for (int64_t i = count * part / parts; i < count * (part + 1) / parts; i++) {
    const int64_t row = i / grid->block_parts * grid->rows_a_part;
    const int64_t from = i % grid->block_parts * grid->blocks_a_part;
    const int64_t rows = product->rows - row, blocks = product->blocks - from;
    const struct rows_view view = view_rows(product->quantised, product->rows, product->in);
    product->multiply(product->packed, rows_from(view, row),
                      rows < grid->rows_a_part ? rows : grid->rows_a_part, product->bias,
                      product->y + row * product->stride_y, product->stride_y, from,
                      from + (blocks < grid->blocks_a_part ? blocks : grid->blocks_a_part));
  }
}

int multiply_rows(struct product product, int64_t bytes_a_block, const float *x, int64_t rows,
                  int64_t stride_x) {
  const int64_t in = product.in;
  if (rows < 1) return LMW_OK;
  const int64_t most = panel_rows(rows, in);
  void *quantised = scratch_memory(lmw_quantised_bytes(most, in));
  if (!quantised) return LMW_NO_MEMORY;
  product.quantised = quantised;
  float *y = product.y;
  for (int64_t row = 0; row < rows; row += most) {
    product.rows = rows - row < most ? rows - row : most;
    product.y = y + row * product.stride_y;
    quantise_parallel(x + row * stride_x, product.rows, in, stride_x, quantised);
    product.grid = cut_grid(product.rows, product.blocks, bytes_a_block);
    lmw_parallel_parts(multiply_parts, &product,
                       (int)(product.grid.row_parts * product.grid.block_parts));
  }
  return LMW_OK;
}
