/* The greatest logits of a table that was multiplied in int8, again in fp32: head.h. */
#include "head.h"

#include <math.h>
#include <stdatomic.h>

#include "kernels.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define CLONES
#endif

enum { ROWS = 4096 }; /* of the table in a part */

typedef struct {
    const lmw_table *table;
    const lmw_bound *bound;
    const float *rest;
    float *logits;
    float least;
    _Atomic(float) most;
    atomic_llong again;
} search;

static void raise_to(_Atomic(float) *most, float value) {
    float now = atomic_load(most);
    while (value > now && !atomic_compare_exchange_weak(most, &now, value)) continue;
}

/* Add what the second quants of the state give; the greatest lower bound of a logit. */
static CLONES void add_rest(void *arg, int part, int parts) {
    search *s = arg;
    int64_t out = s->table->out;
    for (int64_t from = part * (int64_t)ROWS; from < out; from += parts * (int64_t)ROWS) {
        int64_t to = from + ROWS < out ? from + ROWS : out;
        float lows[16];
        for (int lane = 0; lane < 16; lane++) lows[lane] = -INFINITY;
        for (int64_t o = from; o < to; o += 16)
            for (int lane = 0; lane < 16 && o + lane < to; lane++) {
                int64_t row = o + lane;
                float logit = s->logits[row] + s->rest[row];
                s->logits[row] = logit;
                float low = logit - s->bound->off[row] * s->bound->size;
                lows[lane] = low > lows[lane] ? low : lows[lane];
            }
        for (int lane = 0; lane < 16; lane++) raise_to(&s->most, lows[lane]);
    }
}

static CLONES float dot(const float *a, const float *b, int64_t count) {
    float sums[16] = {0};
    int64_t i = 0;
    for (; i + 16 <= count; i += 16)
        for (int lane = 0; lane < 16; lane++) sums[lane] += a[i + lane] * b[i + lane];
    for (; i < count; i++) sums[0] += a[i] * b[i];
    for (int half = 8; half; half /= 2)
        for (int lane = 0; lane < half; lane++) sums[lane] += sums[lane + half];
    return sums[0];
}

/* Multiply again what may reach the greatest logit. */
static CLONES void multiply_again(void *arg, int part, int parts) {
    search *s = arg;
    int64_t out = s->table->out, again = 0;
    for (int64_t from = part * (int64_t)ROWS; from < out; from += parts * (int64_t)ROWS) {
        int64_t to = from + ROWS < out ? from + ROWS : out;
        for (int64_t row = from; row < to; row++) {
            if (!(s->logits[row] + s->bound->off[row] * s->bound->size >= s->least)) continue;
            s->logits[row] = dot(s->table->w + row * s->table->stride, s->bound->x, s->table->in);
            if (s->table->bias) s->logits[row] += s->table->bias[row];
            again++;
        }
    }
    atomic_fetch_add(&s->again, again);
}

int64_t lmw_greatest_again(const lmw_table *table, const lmw_bound *bound, float *logits,
                           const float *rest) {
    search s = {.table = table, .bound = bound, .rest = rest, .logits = logits, .most = -INFINITY};
    int parts = (int)((table->out + ROWS - 1) / ROWS);
    lmw_parallel_parts(add_rest, &s, parts);
    s.least = atomic_load(&s.most) - 2 * bound->left;
    lmw_parallel_parts(multiply_again, &s, parts);
    return atomic_load(&s.again);
}
