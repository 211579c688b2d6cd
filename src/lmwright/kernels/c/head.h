/* Logits of a vocabulary's table in int8, the greatest of each state again in fp32.

   A logit w·x is known as y, off by at most off[row] × |x| + most × (what the two terms leave of x).
   Rows that may have the greatest one by that bound are multiplied in fp32, and their logits put in
   place. */
#ifndef LMW_HEAD_H
#define LMW_HEAD_H

#include <stdint.h>

#include "map.h"

/* The table in int8 and in fp32 (out, in); off[row] = |w − ŵ|, and the largest |ŵ|. */
typedef struct {
    lmw_map map;
    const float *w, *off;
    int64_t stride;
    float most;
} lmw_head;

/* Logits (rows, out) of states (rows, in), both without gaps. How many rows of the table were
   multiplied again is added to `again`, which may be NULL: then none is. LMW_OK or LMW_NO_MEMORY. */
LMW_API int lmw_logits(const lmw_head *head, const float *x, int64_t rows, float *logits,
                       int64_t *again);

#endif
