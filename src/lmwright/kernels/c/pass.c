/* A pass of rows through a stack of attention and feed-forward sublayers, without a return to the
 * caller between them.
 *
 * Norms, rotary embedding, activations and attention are fp32, weight products those of map.h. What
 * a row gives depends on no other document and on no thread count: products are exact integers,
 * and every other sum is in an order that its own document sets.
 *
 * Few rows share each product among the threads. Many rows are cut into tiles that stay in a
 * core's own cache from the norm before a sublayer to the sum after it; only attention, which
 * reads the keys of other tiles, makes the threads wait for each other.
 */
#include <math.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "kernels.h"
#include "pass.h"
#include "threads.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define CLONES
#endif
#define INLINE static inline __attribute__((always_inline))

enum { LANES = 16, KEYS = 4 };
typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t ivec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

INLINE vec load(const float *p) { return *(const vec *)p; }
INLINE void store(float *p, vec x) { *(vec *)p = x; }
INLINE vec fill(float x) { return x - (vec){0}; }
INLINE vec select(ivec which, vec one, vec other) {
    return (vec)((which & (ivec)one) | (~which & (ivec)other));
}

INLINE float sum(vec x) {
    float at[LANES];
    store(at, x);
    for (int half = LANES / 2; half; half /= 2)
        for (int i = 0; i < half; i++) at[i] += at[i + half];
    return at[0];
}

/* e^x to two units in the last place (Cody and Waite's reduction, polynomial of degree 6). */
INLINE vec exponential(vec x) {
    x = select(x < -87.0f, fill(-87.0f), x);
    x = select(x > 88.0f, fill(88.0f), x);
    vec shifted = x * 1.44269504088896341f + 12582912.0f; /* the low bits are the exponent */
    vec n = shifted - 12582912.0f;
    vec r = x - n * 0.693359375f + n * 2.12194440e-4f;
    vec p = fill(1.0f / 720);
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    return (vec)((ivec)p + ((ivec)shifted << 23));
}

/* erf to 1.5e-7 (Abramowitz and Stegun 1964, formula 7.1.26). */
INLINE vec error_function(vec x) {
    vec size = select(x < 0.0f, -x, x), t = 1.0f / (size * 0.3275911f + 1.0f);
    vec p = fill(1.061405429f);
    p = p * t - 1.453152027f;
    p = p * t + 1.421413741f;
    p = p * t - 0.284496736f;
    p = p * t + 0.254829592f;
    vec found = 1.0f - p * t * exponential(-size * size);
    return select(x < 0.0f, -found, found);
}

/* ------------------------------------------------------------------ row by row */

static CLONES void apply_norm(const lmw_norm *norm, const float *x, float *y, int64_t width) {
    if (norm->kind == LMW_NO_NORM) {
        if (x != y) memcpy(y, x, sizeof(float) * width);
        return;
    }
    int64_t i;
    float mean = 0;
    if (norm->kind == LMW_LAYER_NORM) {
        vec total = fill(0);
        for (i = 0; i + LANES <= width; i += LANES) total += load(x + i);
        mean = sum(total);
        for (; i < width; i++) mean += x[i];
        mean /= width;
    }
    vec squares = fill(0);
    for (i = 0; i + LANES <= width; i += LANES) {
        vec c = load(x + i) - mean;
        squares += c * c;
    }
    float square = sum(squares);
    for (; i < width; i++) square += (x[i] - mean) * (x[i] - mean);
    float factor = 1.0f / sqrtf(square / width + norm->eps);
    for (i = 0; i + LANES <= width; i += LANES) {
        vec c = (load(x + i) - mean) * factor * load(norm->gain + i);
        if (norm->bias) c += load(norm->bias + i);
        store(y + i, c);
    }
    for (; i < width; i++) {
        float c = (x[i] - mean) * factor * norm->gain[i];
        y[i] = norm->bias ? c + norm->bias[i] : c;
    }
}

static void rotate(float *x, const lmw_sublayer *s, const float *cosines, const float *sines) {
    int64_t half = s->rotary_width / 2;
    for (int64_t i = 0; i < half; i++) {
        int64_t one = s->interleaved ? 2 * i : i, two = s->interleaved ? 2 * i + 1 : i + half;
        float a = x[one], b = x[two];
        x[one] = a * cosines[i] - b * sines[i];
        x[two] = b * cosines[i] + a * sines[i];
    }
}

static CLONES void activate(float *gate, const float *value, int64_t count, int32_t kind) {
    int64_t i = 0;
    for (; i < count; i += LANES) {
        float at[LANES] = {0};
        int64_t many = count - i < LANES ? count - i : LANES;
        memcpy(at, gate + i, sizeof(float) * many);
        vec x = load(at), y = x;
        if (kind == LMW_SILU) y = x / (exponential(-x) + 1.0f);
        else if (kind == LMW_GELU_TANH) {
            /* x (1 + tanh z) / 2 = x / (1 + e^-2z) */
            vec z = (x + x * x * x * 0.044715f) * 0.7978845608028654f;
            y = x / (exponential(z * -2.0f) + 1.0f);
        } else if (kind == LMW_TANH) y = 2.0f / (exponential(x * -2.0f) + 1.0f) - 1.0f;
        else if (kind == LMW_GELU) y = x * (error_function(x * 0.70710678118654752f) + 1.0f) * 0.5f;
        else if (kind == LMW_RELU) y = select(x > 0.0f, x, fill(0));
        store(at, y);
        if (value)
            for (int64_t j = 0; j < many; j++) at[j] *= value[i + j];
        memcpy(gate + i, at, sizeof(float) * many);
    }
}

/* Rows of keys or values in eight bits: h numbers and their scale (pass.h). */
typedef int8_t bytes __attribute__((vector_size(LANES), aligned(1), may_alias));
enum { SCALE = sizeof(float) };

INLINE vec load_eight(const int8_t *p) { return __builtin_convertvector(*(const bytes *)p, vec); }

INLINE float scale_of(const int8_t *row, int64_t h) {
    float scale;
    memcpy(&scale, row + h, SCALE);
    return scale;
}

/* A row to eight bits, as rows of products are (kernels.h). */
static CLONES void to_eight(const float *x, int64_t h, int8_t *row) {
    float most = 0, scale = NAN;
    int finite = 1;
    for (int64_t i = 0; i < h; i++) {
        most = fabsf(x[i]) > most ? fabsf(x[i]) : most;
        finite &= isfinite(x[i]) != 0;
    }
    float inverse = finite ? 127.0f / most : 0.0f;
    if (finite) scale = isfinite(inverse) ? most / 127.0f : 0.0f;
    if (!isfinite(inverse)) inverse = 0.0f;
    for (int64_t i = 0; i < h; i++) row[i] = inverse > 0.0f ? (int8_t)rintf(x[i] * inverse) : 0;
    memcpy(row + h, &scale, SCALE);
}

/* Rows of eight bits as fp32 (count, h). */
static CLONES void from_eight(const int8_t *rows, int64_t count, int64_t h, float *out) {
    for (int64_t j = 0; j < count; j++) {
        const int8_t *row = rows + j * (h + SCALE);
        float scale = scale_of(row, h);
        for (int64_t i = 0; i < h; i++) out[j * h + i] = (float)row[i] * scale;
    }
}

/* 16 numbers of a row of keys or values, and one of them. */
INLINE vec some(const void *row, int64_t i, int eight) {
    return eight ? load_eight((const int8_t *)row + i) : load((const float *)row + i);
}
INLINE float one_of(const void *row, int64_t i, int eight) {
    return eight ? (float)((const int8_t *)row)[i] : ((const float *)row)[i];
}

/* Attention of one query head to `count` keys; `scores` has room for them. */
INLINE void attend_to(const float *q, const char *k, const char *v, int64_t count, int64_t h,
                      float scale, float softcap, float *scores, float *out, const int eight) {
    int64_t j = 0, i, row = eight ? h + SCALE : h * (int64_t)sizeof(float);
    float most = -INFINITY;
    for (; j < count; j++) {
        const char *key = k + j * row;
        vec total = fill(0);
        for (i = 0; i + LANES <= h; i += LANES) total += load(q + i) * some(key, i, eight);
        float score = sum(total);
        for (; i < h; i++) score += q[i] * one_of(key, i, eight);
        score *= eight ? scale * scale_of((const int8_t *)key, h) : scale;
        if (softcap > 0) score = softcap * tanhf(score / softcap);
        scores[j] = score;
        most = score > most ? score : most;
    }
    vec total = fill(0);
    for (j = count; j % LANES; j++) scores[j] = -INFINITY; /* e^-87 of it is rounded away */
    for (j = 0; j < count; j += LANES) {
        vec e = exponential(load(scores + j) - most);
        if (count - j < LANES) {
            float at[LANES] = {0};
            store(scores + j, e);
            memcpy(at, scores + j, sizeof(float) * (count - j));
            e = load(at);
        }
        store(scores + j, e);
        total += e;
    }
    float over = 1.0f / sum(total);
    for (j = 0; eight && j < count; j++) scores[j] *= scale_of((const int8_t *)(v + j * row), h);
    for (i = 0; i + KEYS * LANES <= h; i += KEYS * LANES) {
        vec a = fill(0), b = fill(0), c = fill(0), d = fill(0);
        for (j = 0; j < count; j++) {
            const char *value = v + j * row;
            float share = scores[j];
            a += some(value, i, eight) * share;
            b += some(value, i + LANES, eight) * share;
            c += some(value, i + 2 * LANES, eight) * share;
            d += some(value, i + 3 * LANES, eight) * share;
        }
        store(out + i, a * over);
        store(out + i + LANES, b * over);
        store(out + i + 2 * LANES, c * over);
        store(out + i + 3 * LANES, d * over);
    }
    for (; i + LANES <= h; i += LANES) {
        vec a = fill(0);
        for (j = 0; j < count; j++) a += some(v + j * row, i, eight) * scores[j];
        store(out + i, a * over);
    }
    for (; i < h; i++) {
        float a = 0;
        for (j = 0; j < count; j++) a += one_of(v + j * row, i, eight) * scores[j];
        out[i] = a * over;
    }
}

static CLONES void attend(const float *q, const char *k, const char *v, int64_t count, int64_t h,
                          float scale, float softcap, float *scores, float *out) {
    attend_to(q, k, v, count, h, scale, softcap, scores, out, 0);
}

static CLONES void attend_eight(const float *q, const char *k, const char *v, int64_t count,
                                int64_t h, float scale, float softcap, float *scores, float *out) {
    attend_to(q, k, v, count, h, scale, softcap, scores, out, 1);
}

/* ------------------------------------------------------------------ many queries of a document */

enum { BLOCK = 8, WIDE = 2 * LANES };

/* c (rows, 2 vectors) = a (rows, k) b (k, 2 vectors): each number a sum in the order of k. */
#define PRODUCT(ROWS)                                                                          \
    static inline __attribute__((always_inline)) void product_##ROWS(                          \
        const float *a, int64_t lda, const float *b, int64_t ldb, int64_t k, float *c,         \
        int64_t ldc) {                                                                         \
        vec one[ROWS], two[ROWS];                                                              \
        for (int r = 0; r < ROWS; r++) one[r] = two[r] = fill(0);                              \
        for (int64_t i = 0; i < k; i++) {                                                      \
            vec first = load(b + i * ldb), second = load(b + i * ldb + LANES);                 \
            for (int r = 0; r < ROWS; r++) {                                                   \
                one[r] += first * a[r * lda + i];                                              \
                two[r] += second * a[r * lda + i];                                             \
            }                                                                                  \
        }                                                                                      \
        for (int r = 0; r < ROWS; r++) {                                                       \
            store(c + r * ldc, one[r]);                                                        \
            store(c + r * ldc + LANES, two[r]);                                                \
        }                                                                                      \
    }
PRODUCT(8)
PRODUCT(4)
PRODUCT(1)

/* c (rows, n) = a (rows, k) b (k, n), rows at most BLOCK; n may be any number, and b's rows may be
 * read up to the next multiple of two vectors if `padded`. */
INLINE void small_product(const float *a, int64_t lda, const float *b, int64_t ldb, int64_t k,
                          float *c, int64_t ldc, int64_t rows, int64_t n) {
    int64_t j = 0;
    for (; j + WIDE <= n; j += WIDE) {
        int64_t r = 0;
        for (; r + 8 <= rows; r += 8) product_8(a + r * lda, lda, b + j, ldb, k, c + r * ldc + j, ldc);
        for (; r + 4 <= rows; r += 4) product_4(a + r * lda, lda, b + j, ldb, k, c + r * ldc + j, ldc);
        for (; r < rows; r++) product_1(a + r * lda, lda, b + j, ldb, k, c + r * ldc + j, ldc);
    }
    for (int64_t r = 0; j < n && r < rows; r++) {
        float total[WIDE] = {0};
        for (int64_t i = 0; i < k; i++)
            for (int64_t col = j; col < n; col++) total[col - j] += a[r * lda + i] * b[i * ldb + col];
        memcpy(c + r * ldc + j, total, sizeof(float) * (n - j));
    }
}

/* The softmax of scores[first, stop), in place; 0 from `from` on to `to` elsewhere. */
INLINE void softmax(float *scores, int64_t from, int64_t first, int64_t stop, int64_t to,
                    float scale, float softcap) {
    float most = -INFINITY;
    for (int64_t j = first; j < stop; j++) {
        float score = scores[j] * scale;
        if (softcap > 0) score = softcap * tanhf(score / softcap);
        scores[j] = score;
        most = score > most ? score : most;
    }
    for (int64_t j = from; j < first; j++) scores[j] = -INFINITY;
    for (int64_t j = stop; j < to; j++) scores[j] = -INFINITY;
    vec total = fill(0);
    for (int64_t j = from; j < to; j += LANES) {
        vec x = load(scores + j), e = exponential(x - most);
        e = select(x == -INFINITY, fill(0), e);
        store(scores + j, e);
        total += e;
    }
    float over = 1.0f / sum(total);
    for (int64_t j = from; j < to; j += LANES) store(scores + j, load(scores + j) * over);
}

/* Keys (count, h) as (h, keys), zeros from count up to `padded`. */
static CLONES void transpose(const float *k, int64_t count, int64_t padded, int64_t h, float *out) {
    for (int64_t j = 0; j < count; j += LANES) {
        int64_t many = count - j < LANES ? count - j : LANES;
        for (int64_t i = 0; i < h; i++)
            for (int64_t n = 0; n < many; n++) out[i * padded + j + n] = k[(j + n) * h + i];
    }
    for (int64_t i = 0; i < h; i++)
        memset(out + i * padded + count, 0, sizeof(float) * (padded - count));
}

/* Attention of `rows` queries at places past, past + 1, … of a document to its keys, as (h, padded)
 * and values (count, h); the results take the place of the queries. */
static CLONES void attend_rows(float *q, int64_t stride, int64_t rows, int64_t past, const float *k,
                               int64_t padded, const float *v, int64_t count, int64_t h,
                               const lmw_sublayer *a, float *scores, float *out) {
    for (int64_t row = 0; row < rows; row += BLOCK) {
        int64_t many = rows - row < BLOCK ? rows - row : BLOCK, at = past + row;
        int64_t stop = a->causal ? at + many : count;
        int64_t from = a->window && at + 1 > a->window ? (at + 1 - a->window) / WIDE * WIDE : 0;
        int64_t to = (stop + WIDE - 1) / WIDE * WIDE;
        float *block = q + row * stride;
        small_product(block, stride, k + from, padded, h, scores + from, padded, many, to - from);
        for (int64_t r = 0; r < many; r++) {
            int64_t last = a->causal ? at + r + 1 : count;
            int64_t first = a->window && at + r + 1 > a->window ? at + r + 1 - a->window : 0;
            softmax(scores + r * padded, from, first, last, to, a->scale, a->softcap);
        }
        small_product(scores + from, padded, v + from * h, h, stop - from, out, h, many, h);
        for (int64_t r = 0; r < many; r++)
            memcpy(block + r * stride, out + r * h, sizeof(float) * h);
    }
}

/* ------------------------------------------------------------------ the pass */

enum {
    TILE = 64,            /* rows that go through sublayers together */
    FEW = 32,             /* so many rows share each product instead */
    SHARES = 4,           /* of a product for each thread, for whoever is free */
    ALONE = 1 << 15       /* numbers below which a thread is faster alone */
};

typedef struct {
    const lmw_pass_work *work;
    float *queries; /* (rows, heads, h), then what they attended to */
    int64_t first, last; /* sublayers of the present region */
    atomic_int failed;   /* a thread had no memory */
} state;

/* Rows from `from` to `to` on their way through a sublayer. */
typedef struct {
    state *s;
    int64_t from, to;
    float *normed, *wide, *narrow;
    void *terms;
    int few; /* their products are shared among the threads */
} tile;

/* A product that threads share; `activated` is the feed-forward whose first map it is. */
typedef struct {
    const lmw_map *map;
    void *terms;
    float *y;
    int64_t rows, stride;
    const lmw_sublayer *activated;
} product;

/* Outputs [from, to) of a feed-forward's first map, in blocks, and those they gate, activated. */
static void activated_outputs(const product *p, int64_t from, int64_t to) {
    const lmw_sublayer *f = p->activated;
    int64_t inner = f->last.in, blocks = inner / LMW_BLOCK;
    lmw_multiply_terms(p->map, p->terms, p->rows, p->y, p->stride, from, to);
    if (f->gated)
        lmw_multiply_terms(p->map, p->terms, p->rows, p->y, p->stride, blocks + from, blocks + to);
    for (int64_t n = 0; n < p->rows; n++) {
        float *gate = p->y + n * p->stride + from * LMW_BLOCK;
        activate(gate, f->gated ? gate + inner : NULL, (to - from) * LMW_BLOCK, f->activation);
    }
}

static void share_product(void *arg, int part, int parts) {
    const product *p = arg;
    int64_t out = p->activated ? p->activated->last.in : p->map->out;
    int64_t blocks = lmw_blocks(out), units = (blocks + 3) / 4;
    int64_t from = units * part / parts * 4, to = units * (part + 1) / parts * 4;
    if (to > blocks) to = blocks;
    if (from >= to) return;
    if (p->activated) activated_outputs(p, from, to);
    else lmw_multiply_terms(p->map, p->terms, p->rows, p->y, p->stride, from, to);
}

/* The tile's rows of x through a map, activated where it is the first one of a feed-forward. */
static void map_rows(tile *t, const lmw_map *map, const float *x, int64_t stride_x, float *y,
                     int64_t stride_y, const lmw_sublayer *activated) {
    int64_t rows = t->to - t->from;
    /* The gate and what it gates have to begin with a block each to be computed by one thread. */
    int joined = activated && activated->last.in % LMW_BLOCK == 0;
    product p = {map, t->terms, y, rows, stride_y, joined ? activated : NULL};
    lmw_make_terms(map, x, stride_x, rows, t->terms);
    if (t->few && map->in * map->out > ALONE)
        lmw_parallel_parts(share_product, &p, SHARES * lmw_threads());
    else share_product(&p, 0, 1);
    for (int64_t n = 0; activated && !joined && n < rows; n++) {
        int64_t inner = activated->last.in;
        float *gate = y + n * stride_y;
        activate(gate, activated->gated ? gate + inner : NULL, inner, activated->activation);
    }
}

/* The document of a row. */
static int64_t document_of(const lmw_pass_work *w, int64_t row) {
    int64_t low = 0, high = w->documents;
    while (high - low > 1) {
        int64_t middle = (low + high) / 2;
        if (w->starts[middle] <= row) low = middle;
        else high = middle;
    }
    return low;
}

/* Bytes of a row of keys or values. */
static int64_t row_bytes(const lmw_kv *kv, int64_t h) {
    return kv->eight ? h + SCALE : h * (int64_t)sizeof(float);
}

/* Where the keys of a document's head begin, in bytes; without a cache they lie like the rows. */
static int64_t keys_of(const lmw_pass_work *w, const lmw_sublayer *a, int64_t document,
                       int64_t head) {
    const lmw_kv *kv = &w->kv[a->cache];
    int64_t bytes = row_bytes(kv, a->head_width);
    if (kv->capacity) return (w->blocks[document] * a->kv_heads + head) * kv->capacity * bytes;
    int64_t length = w->starts[document + 1] - w->starts[document];
    return (w->starts[document] * a->kv_heads + head * length) * bytes;
}

/* x through the norm before a sublayer. */
static void norm_before(tile *t, const lmw_sublayer *each) {
    const lmw_pass_work *w = t->s->work;
    int64_t width = w->stack->width;
    for (int64_t n = 0; n < t->to - t->from; n++)
        apply_norm(&each->pre, w->x + (t->from + n) * width, t->normed + n * width, width);
}

/* The op's output joins x. */
static void join(tile *t, const lmw_sublayer *each) {
    const lmw_pass_work *w = t->s->work;
    int64_t width = w->stack->width;
    for (int64_t n = 0; n < t->to - t->from; n++) {
        float *x = w->x + (t->from + n) * width, *y = t->narrow + n * width;
        apply_norm(&each->branch, y, y, width);
        for (int64_t i = 0; i < width; i++) x[i] = each->residual ? x[i] + y[i] : y[i];
        apply_norm(&each->post, x, x, width);
    }
}

/* Queries, keys and values of the tile's rows, normed and rotated, to where attention reads them. */
static void project(tile *t, const lmw_sublayer *a) {
    const lmw_pass_work *w = t->s->work;
    int64_t h = a->head_width, q_width = a->heads * h, kv_width = a->kv_heads * h;
    int64_t stride = q_width + 2 * kv_width, half = a->rotary_width / 2;
    const lmw_kv *kv = &w->kv[a->cache];
    norm_before(t, a);
    map_rows(t, &a->first, t->normed, w->stack->width, t->wide, stride, NULL);
    for (int64_t n = 0; n < t->to - t->from; n++) {
        int64_t row = t->from + n, document = document_of(w, row);
        int64_t at = w->past[document] + row - w->starts[document];
        float *from = t->wide + n * stride;
        const float *cosines = NULL, *sines = NULL;
        if (half) {
            cosines = w->cosines[a->table] + at * half;
            sines = w->sines[a->table] + at * half;
        }
        for (int64_t head = 0; head < a->heads; head++) {
            float *q = t->s->queries + row * q_width + head * h;
            apply_norm(&a->q_norm, from + head * h, q, h);
            if (half) rotate(q, a, cosines, sines);
        }
        for (int64_t head = 0; head < a->kv_heads; head++) {
            int64_t place = keys_of(w, a, document, head) + at * row_bytes(kv, h);
            char *k = (char *)kv->k + place, *v = (char *)kv->v + place;
            float *key = from + q_width + head * h, *value = key + kv_width;
            apply_norm(&a->k_norm, key, key, h);
            if (half) rotate(key, a, cosines, sines);
            if (kv->eight) {
                to_eight(key, h, (int8_t *)k);
                to_eight(value, h, (int8_t *)v);
            } else {
                memcpy(k, key, sizeof(float) * h);
                memcpy(v, value, sizeof(float) * h);
            }
        }
    }
}

static int64_t greater(int64_t one, int64_t other) { return one > other ? one : other; }
static int64_t padded_bytes(int64_t bytes) { return (bytes + 63) / 64 * 64; }

/* Bytes that attention of a head to `count` keys needs, the last of them for values in eight bits. */
static int64_t attention_bytes(int64_t h, int64_t count, int64_t eight) {
    int64_t padded = (count + WIDE) / WIDE * WIDE;
    int64_t values = eight ? h * (count + WIDE) : 0;
    return padded_bytes(4 * (BLOCK * (h + LANES) + BLOCK * padded + h * padded + values));
}

/* What the queries of a head of a document attend to, in their places. */
static void attend_head(state *s, const lmw_sublayer *a, int64_t document, int64_t head) {
    const lmw_pass_work *w = s->work;
    int64_t h = a->head_width, q_width = a->heads * h, group = a->heads / a->kv_heads;
    const lmw_kv *kv = &w->kv[a->cache];
    int64_t first = w->starts[document], rows = w->starts[document + 1] - first;
    int64_t past = w->past[document], count = past + rows;
    const char *k = (const char *)kv->k + keys_of(w, a, document, head / group);
    const char *v = (const char *)kv->v + keys_of(w, a, document, head / group);
    float *q = s->queries + first * q_width + head * h;
    float *out = scratch_memory(attention_bytes(h, count, kv->eight));
    if (!out) {
        atomic_store(&s->failed, 1);
        return;
    }
    if (rows == 1) {
        int64_t from = a->window && count > a->window ? count - a->window : 0;
        int64_t at = from * row_bytes(kv, h);
        float *scores = out + (h + LANES) / LANES * LANES;
        (kv->eight ? attend_eight : attend)(q, k + at, v + at, count - from, h, a->scale, a->softcap,
                                            scores, out);
        memcpy(q, out, sizeof(float) * h);
    } else {
        int64_t padded = (count + WIDE - 1) / WIDE * WIDE;
        float *scores = out + BLOCK * ((h + LANES) / LANES * LANES);
        float *keys = scores + BLOCK * padded, *whole = keys + h * padded;
        if (kv->eight) from_eight((const int8_t *)k, count, h, whole);
        transpose(kv->eight ? whole : (const float *)k, count, padded, h, keys);
        if (kv->eight) from_eight((const int8_t *)v, count, h, whole);
        attend_rows(q, q_width, rows, past, keys, padded, kv->eight ? whole : (const float *)v, count,
                    h, a, scores, out);
    }
}

/* Heads of documents, the longest document (the last one) first; a part is one of them. */
static void attend_part(void *arg, int part, int parts) {
    state *s = arg;
    const lmw_sublayer *a = &s->work->stack->sublayers[s->first];
    int64_t all = s->work->documents * a->heads;
    for (int64_t item = part; item < all; item += parts)
        attend_head(s, a, s->work->documents - 1 - item / a->heads, item % a->heads);
}

static void attend_all(state *s, const lmw_sublayer *a) {
    const lmw_pass_work *w = s->work;
    int64_t numbers = 0;
    for (int64_t n = 0; n < w->documents; n++) {
        int64_t rows = w->starts[n + 1] - w->starts[n];
        numbers += rows * (w->past[n] + rows) * a->heads * a->head_width;
    }
    int64_t items = w->documents * a->heads;
    if (numbers > ALONE)
        lmw_parallel_parts(attend_part, s, (int)(items < 4096 ? items : 4096));
    else attend_part(s, 0, 1);
}

static void attention_output(tile *t, const lmw_sublayer *a) {
    const lmw_pass_work *w = t->s->work;
    int64_t q_width = a->heads * a->head_width;
    map_rows(t, &a->last, t->s->queries + t->from * q_width, q_width, t->narrow, w->stack->width,
             NULL);
    join(t, a);
}

static void feed_forward(tile *t, const lmw_sublayer *f) {
    const lmw_pass_work *w = t->s->work;
    norm_before(t, f);
    map_rows(t, &f->first, t->normed, w->stack->width, t->wide, f->first.out, f);
    map_rows(t, &f->last, t->wide, f->first.out, t->narrow, w->stack->width, NULL);
    join(t, f);
}

/* The memory of a tile of so many rows; 0 if the thread has none. */
static int make_tile(tile *t, state *s, int64_t rows) {
    const lmw_stack *stack = s->work->stack;
    int64_t wide = 0, terms = 0, narrow = padded_bytes(4 * rows * stack->width);
    for (int64_t n = 0; n < stack->count; n++) {
        const lmw_sublayer *each = &stack->sublayers[n];
        wide = greater(wide, each->first.out);
        terms = greater(terms, lmw_terms_bytes(&each->first, rows));
        terms = greater(terms, lmw_terms_bytes(&each->last, rows));
    }
    wide = padded_bytes(4 * rows * wide);
    char *at = scratch_memory(2 * narrow + wide + padded_bytes(terms));
    if (!at) {
        atomic_store(&s->failed, 1);
        return 0;
    }
    *t = (tile){.s = s, .normed = (float *)at, .narrow = (float *)(at + narrow)};
    t->wide = (float *)(at + 2 * narrow);
    t->terms = at + 2 * narrow + wide;
    return 1;
}

static void project_rows(tile *t) { project(t, &t->s->work->stack->sublayers[t->s->first]); }

/* From what attention found, if it is attention that stands first, to the next attention. */
static void finish_rows(tile *t) {
    const lmw_stack *stack = t->s->work->stack;
    for (int64_t n = t->s->first; n < t->s->last; n++) {
        const lmw_sublayer *each = &stack->sublayers[n];
        if (each->op == LMW_ATTENTION) attention_output(t, each);
        else feed_forward(t, each);
    }
    float *x = t->s->work->x;
    if (t->s->last == stack->count)
        for (int64_t row = t->from; row < t->to; row++)
            apply_norm(&stack->last, x + row * stack->width, x + row * stack->width, stack->width);
}

typedef struct {
    state *s;
    void (*work)(tile *);
} tiled;

static void run_tile(void *arg, int part, int parts) {
    const tiled *each = arg;
    int64_t rows = each->s->work->rows;
    tile t;
    if (!make_tile(&t, each->s, TILE)) return;
    for (int64_t from = part * (int64_t)TILE; from < rows; from += parts * (int64_t)TILE) {
        t.from = from;
        t.to = from + TILE < rows ? from + TILE : rows;
        each->work(&t);
    }
}

/* All rows through some work: few of them together, many in tiles. */
static void run_rows(state *s, void (*work)(tile *), tile *few) {
    if (few->few) {
        work(few);
        return;
    }
    tiled each = {s, work};
    int64_t tiles = (s->work->rows + TILE - 1) / TILE;
    lmw_parallel_parts(run_tile, &each, (int)(tiles < 4096 ? tiles : 4096));
}

int lmw_pass(const lmw_pass_work *work) {
    const lmw_stack *stack = work->stack;
    state s = {.work = work, .queries = work->queries};
    tile few = {.few = work->rows <= FEW};
    for (s.first = 0; s.first < stack->count && !atomic_load(&s.failed); s.first = s.last) {
        const lmw_sublayer *each = &stack->sublayers[s.first];
        s.last = s.first + 1;
        while (s.last < stack->count && stack->sublayers[s.last].op != LMW_ATTENTION) s.last++;
        if (each->op == LMW_ATTENTION) {
            /* Attention has the same memory of the thread as a tile, so a tile is made anew. */
            if (few.few && !make_tile(&few, &s, work->rows)) break;
            few.few = work->rows <= FEW;
            few.to = work->rows;
            run_rows(&s, project_rows, &few);
            attend_all(&s, each);
        }
        if (few.few && !make_tile(&few, &s, work->rows)) break;
        few.few = work->rows <= FEW;
        few.to = work->rows;
        run_rows(&s, finish_rows, &few);
    }
    return atomic_load(&s.failed) ? LMW_NO_MEMORY : LMW_OK;
}
