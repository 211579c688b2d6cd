/* Linear maps by the products of kernels.h, in shares of a parallel region. */
#include "map.h"

#include "kernels.h"

enum { BLOCKS = 4 }; /* blocks of outputs that are fastest together */

int64_t lmw_map_quant_bytes(const lmw_map *map, int64_t rows) {
    return (int64_t)lmw_quantised_bytes(rows, map->in);
}

void lmw_map_quantise(const lmw_map *map, const float *x, int64_t stride_x, int64_t rows,
                      void *quants, int part, int parts) {
    lmw_quantise_rows(x, rows, map->in, stride_x, quants, rows * part / parts,
                      rows * (part + 1) / parts);
}

void lmw_map_product(const lmw_map *map, const void *quants, int64_t rows, float *y,
                     int64_t stride_y, int part, int parts) {
    int64_t blocks = lmw_blocks(map->out), units = (blocks + BLOCKS - 1) / BLOCKS;
    int64_t from = units * part / parts * BLOCKS, to = units * (part + 1) / parts * BLOCKS;
    if (to > blocks) to = blocks;
    if (from < to) lmw_linear_int8_q(map->packed, quants, rows, map->bias, y, stride_y, from, to);
}
