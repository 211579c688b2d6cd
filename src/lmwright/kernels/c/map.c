/* Linear maps of networks: map.h. */

#include "map.h"

#include <stdatomic.h>

#include "rows.h"
#include "threads.h"

enum {
  TILE = 64,  /* rows that a thread multiplies at once */
  FEW = 32,   /* so many rows are multiplied by all threads together */
  SHARES = 4, /* of such a product for each thread, for whoever is free */
  FOUR = 4    /* blocks of outputs that are fastest together */
};

/* Memory of terms: quants of 2 × rows, the rest of each row, products of 2 × rows. */
static int64_t rest_at(const lmw_map *map, int64_t rows) {
  return round_up((int64_t)lmw_quantised_bytes(2 * rows, map->in), 64);
}

static int64_t products_at(const lmw_map *map, int64_t rows) {
  return rest_at(map, rows) + round_up(4 * rows * map->in, 64);
}

int64_t lmw_terms_bytes(const lmw_map *map, int64_t rows) {
  return products_at(map, rows) + round_up(4 * 2 * rows * map->out, 64);
}

void lmw_make_terms(const lmw_map *map, const float *x, int64_t stride_x, int64_t rows, void *terms) {
  const int64_t in = map->in;
  float *rest = (float *)((char *)terms + rest_at(map, rows));
  lmw_quantise_rows(x, 2 * rows, in, stride_x, terms, 0, rows);
  const struct rows_view view = view_rows(terms, 2 * rows, in);
  for (int64_t row = 0; row < rows; row++) {
    const int8_t *q = view.q + row * view.stride;
    const float scale = view.scales[row], *own = x + row * stride_x;
    for (int64_t i = 0; i < in; i++) rest[row * in + i] = own[i] - (float)q[i] * scale;
  }
  lmw_quantise_rows(rest - rows * in, 2 * rows, in, in, terms, rows, 2 * rows);
}

/* The products of quantised rows with blocks [from, to) of a map that is one piece. */
static void multiply_piece(const lmw_map *map, const void *rows_q, int64_t rows, float *y,
                           int64_t stride_y, int64_t from, int64_t to) {
  if (map->kind)
    lmw_linear_group_q(map->packed, rows_q, rows, NULL, y, stride_y, from, to);
  else
    lmw_linear_int8_q(map->packed, rows_q, rows, NULL, y, stride_y, from, to);
}

static void multiply_blocks(const lmw_map *map, const void *rows_q, int64_t rows, float *y,
                            int64_t stride_y, int64_t from, int64_t to) {
  if (map->kind != LMW_PIECES) {
    multiply_piece(map, rows_q, rows, y, stride_y, from, to);
    return;
  }
  const lmw_map *piece = map->packed;
  for (int64_t first = 0; first < to; piece++) {
    const int64_t next = first + lmw_blocks(piece->out);
    const int64_t low = from > first ? from : first, high = to < next ? to : next;
    if (low < high)
      multiply_piece(piece, rows_q, rows, y + first * LMW_BLOCK, stride_y, low - first, high - first);
    first = next;
  }
}

void lmw_multiply_terms(const lmw_map *map, void *terms, int64_t rows, float *y, int64_t stride_y,
                        int64_t from, int64_t to) {
  float *products = (float *)((char *)terms + products_at(map, rows));
  multiply_blocks(map, terms, 2 * rows, products, map->out, from, to);
  const int64_t first = from * LMW_BLOCK, end = to * LMW_BLOCK < map->out ? to * LMW_BLOCK : map->out;
  for (int64_t row = 0; row < rows; row++) {
    const float *one = products + row * map->out, *two = one + rows * map->out;
    float *found = y + row * stride_y;
    if (map->bias)
      for (int64_t o = first; o < end; o++) found[o] = one[o] + two[o] + map->bias[o];
    else
      for (int64_t o = first; o < end; o++) found[o] = one[o] + two[o];
  }
}

struct multiplying {
  const lmw_map *map;
  const float *x;
  int64_t rows, stride_x;
  float *y;
  int64_t stride_y;
  void *terms;
  atomic_int failed;
};

static void multiply_share(void *arg, int part, int parts) {
  struct multiplying *job = arg;
  const int64_t blocks = lmw_blocks(job->map->out), fours = (blocks + FOUR - 1) / FOUR;
  const int64_t from = fours * part / parts * FOUR, to = fours * (part + 1) / parts * FOUR;
  const int64_t end = to < blocks ? to : blocks;
  if (from < end)
    lmw_multiply_terms(job->map, job->terms, job->rows, job->y, job->stride_y, from, end);
}

static void multiply_tiles(void *arg, int part, int parts) {
  struct multiplying *job = arg;
  void *terms = scratch_memory((size_t)lmw_terms_bytes(job->map, TILE));
  if (!terms) {
    atomic_store(&job->failed, 1);
    return;
  }
  for (int64_t row = part * (int64_t)TILE; row < job->rows; row += parts * (int64_t)TILE) {
    const int64_t rows = job->rows - row < TILE ? job->rows - row : TILE;
    lmw_make_terms(job->map, job->x + row * job->stride_x, job->stride_x, rows, terms);
    lmw_multiply_terms(job->map, terms, rows, job->y + row * job->stride_y, job->stride_y, 0,
                       lmw_blocks(job->map->out));
  }
}

int lmw_multiply(const lmw_map *map, const float *x, int64_t rows, int64_t stride_x, float *y,
                 int64_t stride_y) {
  struct multiplying job = {map, x, rows, stride_x, y, stride_y, NULL, 0};
  if (rows > FEW) {
    const int64_t tiles = (rows + TILE - 1) / TILE;
    lmw_parallel_parts(multiply_tiles, &job, tiles < 4096 ? (int)tiles : 4096);
  } else if (rows > 0) {
    job.terms = scratch_memory((size_t)lmw_terms_bytes(map, rows));
    if (!job.terms) return LMW_NO_MEMORY;
    lmw_make_terms(map, x, stride_x, rows, job.terms);
    lmw_parallel_parts(multiply_share, &job, SHARES * lmw_threads());
  }
  return atomic_load(&job.failed) ? LMW_NO_MEMORY : LMW_OK;
}
