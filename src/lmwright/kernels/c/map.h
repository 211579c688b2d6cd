/* A linear map of a network, whatever form its weights have: quantise the rows, then multiply. */
#ifndef LMW_MAP_H
#define LMW_MAP_H

#include <stdint.h>

/* `packed` are int8 weights of kernels.h; `bias` may be NULL. */
typedef struct {
    const void *packed;
    const float *bias;
    int64_t out, in;
} lmw_map;

/* Bytes of quantised rows. */
int64_t lmw_map_quant_bytes(const lmw_map *map, int64_t rows);
/* A share of the rows to quants; a share of the outputs of all rows. */
void lmw_map_quantise(const lmw_map *map, const float *x, int64_t stride_x, int64_t rows,
                      void *quants, int part, int parts);
void lmw_map_product(const lmw_map *map, const void *quants, int64_t rows, float *y,
                     int64_t stride_y, int part, int parts);

#endif
