/* The greatest logits of a table that was multiplied in int8, again in fp32.

   A logit w·x is known as y, off by at most off[row] × size + left. Rows that may have the greatest
   one by that bound are multiplied in fp32, and their logits put in place. */
#ifndef LMW_HEAD_H
#define LMW_HEAD_H

#include <stdint.h>

#include "kernels.h"

/* The table (out, in) in fp32; `bias` may be NULL. */
typedef struct {
    const float *w, *bias;
    int64_t out, in, stride;
} lmw_table;

/* A state x and the bound of its logits. */
typedef struct {
    const float *x, *off;
    float size, left;
} lmw_bound;

/* `logits` are those of the state's first quants, with the bias, and `rest` those of its second
   ones; afterwards `logits` are of both. Returns how many rows were multiplied again. */
LMW_API int64_t lmw_greatest_again(const lmw_table *table, const lmw_bound *bound, float *logits,
                                   const float *rest);

#endif
