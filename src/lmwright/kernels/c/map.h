/* A linear map of a network, whatever form its weights have.

   Rows are multiplied as two terms of int8 each: x is near q × s and the rest near q′ × s′, with q and
   q′ of 8 bits, so that what is lost of x is less than 1/64,000 of the row's largest number. With one
   term the weights' own rounding would be a small part of the error (docs/log.md); the second one
   costs arithmetic, and nothing where a product waits for its weights. */
#ifndef LMW_MAP_H
#define LMW_MAP_H

#include <stdint.h>

#include "kernels.h"

enum { LMW_PIECES = 6 };

/* `packed` are int8 weights (kind 0), weights in groups (LMW_Q8_0 …), or maps of these kinds whose
   outputs follow one another (LMW_PIECES): they have no biases, and but for the last one outputs that
   are a multiple of 16. `bias` may be NULL. */
typedef struct {
  const void *packed;
  const float *bias;
  int64_t out, in;
  int32_t kind;
} lmw_map;

/* y (rows, out) of x (rows, in), on all threads: LMW_OK or LMW_NO_MEMORY. */
LMW_API int lmw_multiply(const lmw_map *map, const float *x, int64_t rows, int64_t stride_x, float *y,
                         int64_t stride_y);

/* The same in steps, on the calling thread. `terms` is memory for so many rows, which holds the
   products too: the rows as terms, then blocks [from, to) of 16 outputs. */
int64_t lmw_terms_bytes(const lmw_map *map, int64_t rows);
void lmw_make_terms(const lmw_map *map, const float *x, int64_t stride_x, int64_t rows, void *terms);
void lmw_multiply_terms(const lmw_map *map, void *terms, int64_t rows, float *y, int64_t stride_y,
                        int64_t from, int64_t to);

#endif
