/* Logits of a vocabulary's table: head.h. */
#include "head.h"

#include <math.h>
#include <stdatomic.h>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define CLONES
#endif

enum { ROWS = 4096 }; /* of the table in a part */

typedef struct {
    const lmw_head *head;
    const float *x;
    float *logits;
    float size, left, least;
    _Atomic(float) most;
    atomic_llong again;
} search;

static void raise_to(_Atomic(float) *most, float value) {
    float now = atomic_load(most);
    while (value > now && !atomic_compare_exchange_weak(most, &now, value)) continue;
}

/* The greatest lower bound of a logit. */
static CLONES void find_most(void *arg, int part, int parts) {
    search *s = arg;
    int64_t out = s->head->map.out;
    const float *off = s->head->off, *logits = s->logits;
    for (int64_t from = part * (int64_t)ROWS; from < out; from += parts * (int64_t)ROWS) {
        int64_t to = from + ROWS < out ? from + ROWS : out, o = from;
        float lows[16];
        for (int lane = 0; lane < 16; lane++) lows[lane] = -INFINITY;
        for (; o + 16 <= to; o += 16)
            for (int lane = 0; lane < 16; lane++) {
                float low = logits[o + lane] - off[o + lane] * s->size;
                lows[lane] = low > lows[lane] ? low : lows[lane];
            }
        for (; o < to; o++) {
            float low = logits[o] - off[o] * s->size;
            lows[0] = low > lows[0] ? low : lows[0];
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

/* Multiply again what may be the greatest. */
static CLONES void multiply_again(void *arg, int part, int parts) {
    search *s = arg;
    const lmw_head *head = s->head;
    int64_t out = head->map.out, again = 0;
    for (int64_t from = part * (int64_t)ROWS; from < out; from += parts * (int64_t)ROWS) {
        int64_t to = from + ROWS < out ? from + ROWS : out;
        for (int64_t row = from; row < to; row++) {
            if (!(s->logits[row] + head->off[row] * s->size >= s->least)) continue;
            s->logits[row] = dot(head->w + row * head->stride, s->x, head->map.in);
            if (head->map.bias) s->logits[row] += head->map.bias[row];
            again++;
        }
    }
    atomic_fetch_add(&s->again, again);
}

/* For the rounding of norms, products and sums in fp32. */
static const float SLACK = 1.0f + 1e-4f;

int lmw_logits(const lmw_head *head, const float *x, int64_t rows, float *logits, int64_t *again) {
    int64_t in = head->map.in, out = head->map.out;
    int error = lmw_multiply(&head->map, x, rows, in, logits, out);
    if (error || !again) return error;
    int parts = (int)((out + ROWS - 1) / ROWS);
    for (int64_t row = 0; row < rows; row++) {
        const float *own = x + row * in;
        float largest = 0;
        for (int64_t i = 0; i < in; i++) largest = fabsf(own[i]) > largest ? fabsf(own[i]) : largest;
        search s = {.head = head, .x = own, .logits = logits + row * out, .most = -INFINITY};
        s.size = sqrtf(dot(own, own, in)) * SLACK;
        /* A term leaves at most half of its scale of each number, so the second 1 / (4 × 127²). */
        s.left = head->most * sqrtf((float)in) * (largest / 64516.0f) * SLACK;
        lmw_parallel_parts(find_most, &s, parts);
        s.least = atomic_load(&s.most) - 2 * s.left;
        lmw_parallel_parts(multiply_again, &s, parts);
        *again += atomic_load(&s.again);
    }
    return LMW_OK;
}
