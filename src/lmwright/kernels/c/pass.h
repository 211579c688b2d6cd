/* A stack of attention and feed-forward sublayers as data, and a pass through it: pass.c. */
#ifndef LMW_PASS_H
#define LMW_PASS_H

#include <stdint.h>

#include "kernels.h"
#include "map.h"

enum { LMW_NO_NORM, LMW_LAYER_NORM, LMW_RMS_NORM };
enum { LMW_ATTENTION, LMW_FEED_FORWARD };
enum { LMW_NONE, LMW_SILU, LMW_GELU_TANH, LMW_GELU, LMW_RELU, LMW_TANH };

/* A norm; `bias` may be NULL. */
typedef struct {
    const float *gain, *bias;
    float eps;
    int32_t kind;
} lmw_norm;

/* y = post(x + branch(op(pre(x)))). An attention's maps are queries|keys|values and the output;
 * a feed-forward's are up (gate|value where it is gated) and down. */
typedef struct {
    lmw_norm pre, branch, post, q_norm, k_norm;
    lmw_map first, last;
    int32_t op, residual, activation, gated;
    int32_t heads, kv_heads, head_width, window;    /* window 0: the whole document */
    int32_t rotary_width, interleaved, table, cache; /* numbers of a table of angles, a cache */
    float scale, softcap;
    int32_t causal; /* else a query attends to its whole document */
} lmw_sublayer;

typedef struct {
    const lmw_sublayer *sublayers;
    int64_t count, width;
    lmw_norm last;
} lmw_stack;

/* An update of low rank of a map, y += B A x: `a` (parts, rank, in) and `b` (rank, out), with the
 * scale in it. The outputs of part p end before ends[p] and take the p-th rows of `a`. A rank of 0
 * is no update; parts × rank are at most LMW_UPDATE_ROWS. */
enum { LMW_UPDATE_ROWS = 4096 };
typedef struct {
    const float *a, *b;
    const int64_t *ends;
    int64_t parts, rank;
} lmw_update;

/* Keys and values of an attention: keys (pages, kv heads, head width, LMW_PAGE), so that a query is
 * multiplied with many keys at once, and values (pages, kv heads, LMW_PAGE, head width). They are
 * fp32, or with scales (pages, kv heads, LMW_PAGE) int8. */
enum { LMW_PAGE = 64 };
typedef struct {
    void *k, *v;
    float *k_scales, *v_scales;
} lmw_kv;

/* A pass: `x` (rows, width) are embeddings, and last states afterwards. Document j has the rows
 * from starts[j] to starts[j + 1], past[j] tokens before them, and the pages from pages[firsts[j]]
 * on, with room for all its tokens. Angles are (positions, rotary width / 2). `queries` has room for
 * (rows, heads, head width) of the largest attention. `updates` has those of each document, of the
 * first and the last map of each sublayer, NULL for a document without; NULL if none has any. */
typedef struct {
    const lmw_stack *stack;
    const lmw_kv *kv;
    const int64_t *starts, *past, *pages, *firsts;
    const float *const *cosines, *const *sines;
    const lmw_update *const *updates;
    float *x, *queries;
    int64_t rows, documents;
} lmw_pass_work;

/* LMW_OK, or LMW_NO_MEMORY with x of no use. */
LMW_API int lmw_pass(const lmw_pass_work *work);

#endif
